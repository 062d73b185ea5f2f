"""``python -m psdp.evaluate RUN --corpus ...``: how well a trained model predicts a text.

Alone it is one process and needs no MPI; ``mpirun -n N`` shares the batches out among N ranks.
"""

from __future__ import annotations

import argparse
import math
import os
import signal
import socket
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from psdp.arguments import Parser, whole
from psdp.backend import make_backend
from psdp.backend.threads import fair_share, limit_blas
from psdp.checkpoint import Manifest, read_manifest, say_which_weights
from psdp.config import Config, DataConfig, check_prompts
from psdp.cores import cpu_quota, own_cores
from psdp.data.corpus import load_corpus
from psdp.data.tokenizer import IdTokenizer
from psdp.errors import ConfigError, DataError, PsdpError, StartRefused
from psdp.fields import AUTO
from psdp.generation import chosen_checkpoint, identity_of, parameters_of
from psdp.language import Language
from psdp.rank import tell
from psdp.records.console import Bar
from psdp.records.metrics import bits_per_byte, perplexity
from psdp.startup.sources import Checkpoint
from psdp.startup.step import Step, take
from psdp.task import Measured, Model
from psdp.terminal import at_home, show_any_text
from psdp.transport.in_memory_world import InMemoryWorlds
from psdp.transport.launchers import check_not_alone, launch_of
from psdp.transport.world import World

MOST_THREADS = 1024
"""That can be asked for; beyond any machine's."""


@dataclass(frozen=True)
class Sums:
    """What one rank tells: sums over its part of the text, and of what.

    Attributes:
        loss: nats.
        bytes: of all of the text that was predicted; 0 where tokens stand for no text.
        checkpoint, corpus: digests of both.
        about: both in words.
    """

    units: int
    loss: float
    correct: int
    bytes: int
    checkpoint: str
    corpus: str
    about: str


@dataclass(frozen=True)
class Evaluation:
    """Of a whole text.

    Attributes:
        loss: nats a token.
        bits_per_byte: None where tokens stand for no text.
    """

    about: str
    tokens: int
    loss: float
    accuracy: float
    bits_per_byte: float | None

    def __str__(self) -> str:
        above = perplexity(self.loss)
        text = f"{self.about}: {self.tokens:,} tokens predicted, loss {self.loss:.4f}, "
        text += f"perplexity {math.inf if above is None else above:.2f}, "
        text += f"accuracy {self.accuracy:.3f}"
        return text + (
            "" if self.bits_per_byte is None else f", {self.bits_per_byte:.4f} bits per byte"
        )


@dataclass(frozen=True)
class Host:
    """Where a rank is."""

    name: str


@dataclass(frozen=True)
class Locate(Step[None, Host, list[str]]):
    """Find the host of each rank."""

    host: str

    facts = Host

    def act(self) -> tuple[None, Host]:
        return None, Host(self.host)

    def agree(self, facts: Mapping[int, Host]) -> list[str]:
        return [at.name for at in facts.values()]


@dataclass(frozen=True)
class Evaluate(Step[None, Sums, Evaluation]):
    """Evaluate this rank's part of the text; add up what all found.

    Args:
        local_rank: of this rank, among those on its host.
        threads: that it computes with.
    """

    options: argparse.Namespace
    rank: int
    ranks: int
    local_rank: int
    threads: int

    facts = Sums

    def act(self) -> tuple[None, Sums]:
        chosen, best = self.options.run, self.options.best
        with chosen_checkpoint(chosen, best=best, tell=self._tell) as folder:
            return None, self._sums(read_manifest(folder))

    def _sums(self, manifest: Manifest) -> Sums:
        config, tokenizer = identity_of(manifest)
        raw = self.options.raw_weights
        say_which_weights(manifest, self._tell, raw=raw)
        table, weights = parameters_of(manifest, config, tokenizer.vocab_size, raw=raw)
        task = self._task(config, Checkpoint(manifest).tokenizer_settings())
        if task.corpus.tokenizer != tokenizer and not isinstance(tokenizer, IdTokenizer):
            raise DataError("the corpus is of another tokenizer than the model's; give its text")
        how = self.options.device, str(weights.dtype), self.local_rank
        backend = make_backend(*how, threads=self.threads)
        on_device = backend.empty(table.size)
        backend.to_device(weights, on_device)
        model = task.model(backend, on_device, None)
        total = self._total(task, model)
        return Sums(
            units=total.units,
            loss=total.loss,
            correct=total.correct,
            bytes=task.validation_bytes,
            checkpoint=manifest.digest,
            corpus=task.corpus.sha256,
            about=f"{self.options.run} ({manifest.folder.name}) on {task.description}",
        )

    def _total(self, task: Language, model: Model) -> Measured:
        """Return what this rank finds in its part; rank 0 shows how far it is, as others are."""
        part, total = (self.rank, self.ranks), Measured(0, 0.0)
        batches = task.validation_batches(*part)
        with Bar(batches, name="batches", quiet=self.rank != 0) as bar:
            for batch in task.validation(*part):
                total += model.evaluate(batch)
                bar.advance(1)
        return total

    def _task(self, config: Config, tokenizer: Mapping[str, Any]) -> Language:
        """Return the task whose validation is all of the text that is asked for: of a corpus, or
        what the run has kept for it."""
        data, said = replace(config.data, **tokenizer), self.options.corpus
        if said:
            data = replace(data, corpus=tuple(said), val_corpus=None, val_fraction=0.0)
        if self.options.text_field is not None:
            data = replace(data, text_field=self.options.text_field)
        check_prompts(data)
        corpus = load_corpus(data)
        text = corpus.train if said else corpus.val
        if not text.size:
            raise DataError(
                f"{self.options.run} kept no text for its validation; name one with --corpus"
            )
        some = replace(config.data, val_fraction=DataConfig.val_fraction)
        settings = replace(config, data=some, run=replace(config.run, eval_batches=0))
        return Language.of(settings, replace(corpus, val=text))

    def agree(self, facts: Mapping[int, Sums]) -> Evaluation:
        first = facts[0]
        for rank, other in facts.items():
            for name in ("checkpoint", "corpus"):
                if getattr(other, name) != getattr(first, name):
                    raise DataError(f"rank {rank} read another {name} than rank 0; name one")
        units = sum(part.units for part in facts.values())
        loss = sum(part.loss for part in facts.values())
        return Evaluation(
            about=first.about,
            tokens=units,
            loss=loss / units,
            accuracy=sum(part.correct for part in facts.values()) / units,
            bits_per_byte=bits_per_byte(loss / units, units, first.bytes) if first.bytes else None,
        )

    def _tell(self, text: object) -> None:
        if self.rank == 0:
            print(f"psdp: {text}", file=sys.stderr)


def main(argv: Sequence[str] | None = None) -> int:
    """Evaluate, and have rank 0 print what came out; return the exit status."""
    show_any_text()
    try:
        options = parse(sys.argv[1:] if argv is None else argv)
        world = world_of(os.environ)
    except ConfigError as error:
        print(f"psdp: {error}", file=sys.stderr)
        return error.exit_code
    try:
        evaluation = evaluate(world, options)
    except PsdpError as error:
        if not isinstance(error, StartRefused):
            print(f"psdp: {error}", file=sys.stderr)
        return error.exit_code
    except BaseException as error:
        if world.size > 1:
            world.abort(tell(world.rank, error))  # or the others would wait for this rank
        if isinstance(error, KeyboardInterrupt):
            return 128 + signal.SIGINT
        raise
    if evaluation is not None:
        print(evaluation)
    return 0


def evaluate(world: World, options: argparse.Namespace) -> Evaluation | None:
    """Return what all ranks of a world find together; None but on rank 0.

    Raises:
        StartRefused: something is wrong on some rank; rank 0 has said what.
    """
    check_not_alone(world.size, world.library, os.environ)
    _, hosts = take(world, Locate(world.host))
    local_rank, near = hosts[: world.rank].count(world.host), hosts.count(world.host)
    threads = options.threads or fair_share(own_cores(), [own_cores()] * near, cpu_quota())
    limit_blas(threads)
    _, evaluation = take(world, Evaluate(options, world.rank, world.size, local_rank, threads))
    return evaluation if world.rank == 0 else None


def world_of(environment: Mapping[str, str]) -> World:
    """Return the world of this process: MPI's where a launcher has started it."""
    if launch_of(environment) is None:
        return InMemoryWorlds([socket.gethostname()]).worlds[0]
    from psdp.transport.mpi import MpiWorld

    return MpiWorld()


def parse(argv: Sequence[str]) -> argparse.Namespace:
    """Return the options.

    Raises:
        ConfigError: an unknown flag, or a value that cannot be.
        SystemExit: ``--help``.
    """
    parser = Parser(
        prog="python -m psdp.evaluate",
        description="Say how well a trained model predicts a text: loss (nats a token), "
        "perplexity, accuracy, and bits per byte, which can be compared between tokenizers. "
        "Started with mpirun, all ranks share the work.",
        epilog="example: mpirun -n 4 python -m psdp.evaluate runs/mine --corpus my/texts",
    )

    def add(flag: str, help: str, **how: Any) -> None:
        parser.add_argument(flag, help=help, **how)

    add(
        "run",
        "run folder, of which the latest checkpoint that is whole is taken, folder of a "
        "checkpoint, or URL of copies",
        metavar="RUN",
    )
    add(
        "--corpus",
        "text or tokens, as for training (default: what the run has kept for its validation, all "
        "of it)",
        nargs="+",
        default=(),
        metavar="PATH",
    )
    add(
        "--text-field",
        "field of JSON lines, or column of Parquet, that is the text (default: as the run had it)",
        metavar="NAME",
    )
    parser.add_choice_of_weights()
    add("--device", "where to compute (default cpu)", choices=(AUTO, "cpu", "gpu"), default="cpu")
    add(
        "--threads",
        "of each rank (default 0: the host's cores, shared among its ranks)",
        type=whole,
        default=0,
        metavar="N",
    )
    options = parser.parse_args(argv)
    if not 0 <= options.threads <= MOST_THREADS:
        raise ConfigError(
            f"--threads must be at least 0 and at most {MOST_THREADS}, got {options.threads}"
        )
    options.run = at_home(options.run, "RUN")
    options.corpus = [at_home(path, "--corpus") for path in options.corpus]
    return options


if __name__ == "__main__":
    sys.exit(main())
