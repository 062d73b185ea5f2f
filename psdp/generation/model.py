"""The tokenizer and the model of a checkpoint, rebuilt from what the checkpoint says of its job."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory

from psdp.backend import Backend, make_backend
from psdp.checkpoint import (
    CHECKPOINTS,
    Manifest,
    fetch_one,
    find_checkpoint,
    is_checkpoint,
    read_attached,
    read_best,
    read_manifest,
    read_weights,
)
from psdp.config import Config, is_url
from psdp.data.extra import NotInstalled
from psdp.data.subwords import tokenizer_of
from psdp.data.tokenizer import Tokenizer
from psdp.errors import CheckpointError, ConfigError, DataError
from psdp.generation.scoring import Scorer
from psdp.nn.models import Sampler, language_model
from psdp.params import Array, ParamTable


@contextmanager
def chosen_checkpoint(
    path: Path | str, *, best: bool, tell: Callable[[str], object]
) -> Iterator[Path]:
    """Yield the folder of a checkpoint: ``path`` itself, or of the run folder ``path`` the latest
    one that is whole, or the best; of copies at a URL the same, which is here in the block alone.

    Args:
        tell: is handed a line about each later one that is not whole, and why.

    Raises:
        ConfigError: the best is asked for, and ``path`` is one checkpoint; or it is no URL.
        CheckpointError: there is no such checkpoint.
    """
    if is_url(str(path)):
        with TemporaryDirectory(prefix="psdp-") as folder:
            yield fetch_one(str(path), Path(folder), tell, best=best)
    else:
        yield _find(Path(path), tell, best=best)


def _find(path: Path, tell: Callable[[str], object], *, best: bool) -> Path:
    if not best:
        return find_checkpoint(path, tell)
    if is_checkpoint(path):
        raise ConfigError(
            f"--best chooses among the checkpoints of a run, but {path} is one checkpoint; give "
            "the run folder, or drop --best"
        )
    marked = read_best(path / CHECKPOINTS)
    if marked is None:
        find_checkpoint(path)  # which says it better if there is no checkpoint at all
        raise CheckpointError(
            f"{path} has no best checkpoint: no evaluation of that run was completed; drop --best "
            "to take the latest one"
        )
    return find_checkpoint(path / CHECKPOINTS / marked.name)


@dataclass(frozen=True)
class Trained:
    """A trained model of language, its weights (P,) on the backend."""

    config: Config
    tokenizer: Tokenizer
    backend: Backend
    weights: Array

    def sampler(self) -> Sampler:
        """Return what generates with it."""
        of = self.config, self.tokenizer.vocab_size, self.backend, self.weights
        return language_model(self.config.model.architecture).sampler(*of)

    def scorer(self) -> Scorer:
        """Return what scores texts with it."""
        alone = replace(self.config, run=replace(self.config.run, batch_size=1))
        of = alone, self.tokenizer.vocab_size, self.backend, self.weights, None
        model = language_model(self.config.model.architecture)(*of)
        return Scorer(self.tokenizer, model, self.config.model.block_size)


def load_trained(folder: Path, device: str, threads: int = 1, *, raw: bool = False) -> Trained:
    """Return the model of the checkpoint in ``folder``, verified; ``raw`` is that of
    :func:`parameters_of`.

    Raises:
        CheckpointError: it is damaged, or not what a run of this version of psdp writes.
        ConfigError: the device is missing.
    """
    manifest = read_manifest(folder)
    config, tokenizer = identity_of(manifest)
    table, weights = parameters_of(manifest, config, tokenizer.vocab_size, raw=raw)
    backend = make_backend(device, str(weights.dtype), threads=threads)
    on_device = backend.empty(table.size)
    backend.to_device(weights, on_device)
    return Trained(config, tokenizer, backend, on_device)


def load_model(
    folder: Path, device: str, threads: int = 1, *, raw: bool = False
) -> tuple[Tokenizer, Sampler]:
    """Return the tokenizer and the sampler of the checkpoint in ``folder``; see
    :func:`load_trained`."""
    trained = load_trained(folder, device, threads, raw=raw)
    return trained.tokenizer, trained.sampler()


def parameters_of(
    manifest: Manifest, config: Config, vocab_size: int, *, raw: bool = False
) -> tuple[ParamTable, Array]:
    """Return the parameters of a checkpoint's model, and its weights (P,), verified: their average
    where there is one, unless the ``raw`` ones are asked for.

    Raises:
        CheckpointError: it is damaged, or holds other parameters.
    """
    table = language_model(config.model.architecture).table(config, vocab_size)
    weights = read_weights(manifest, raw=raw)
    if not table.same_layout(manifest.state["layout"]) or weights.size != table.size:
        raise CheckpointError(
            f"{manifest.folder} holds other parameters than this version of psdp makes"
        )
    return table, weights


def identity_of(manifest: Manifest) -> tuple[Config, Tokenizer]:
    """Return the settings and the tokenizer of the run that a checkpoint is of.

    Raises:
        CheckpointError: it is not what a run of this version of psdp writes.
        NotInstalled: a library that the tokenizer needs.
    """
    state = manifest.state
    if "task" in state:
        raise CheckpointError(
            f"{manifest.folder} is of {state['task']['name']}, which is no model of language and "
            "generates no text; psdp.load reads its weights"
        )
    missing = {"settings", "tokenizer", "layout"} - state.keys()
    if missing:
        raise CheckpointError(
            f"{manifest.folder} does not say its {', '.join(sorted(missing))}; was it written by "
            "a psdp run?"
        )
    try:
        config = Config.from_flat(state["settings"])
        return config, tokenizer_of(state["tokenizer"], lambda name: read_attached(manifest, name))
    except NotInstalled:
        raise
    except (ConfigError, DataError) as error:
        raise CheckpointError(
            f"{manifest.folder} was written by another version of psdp: {error}"
        ) from error
