"""What the harness asks of a model, answered by a checkpoint."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np
from lm_eval.api.model import LM
from lm_eval.api.registry import register_model

from psdp.backend.threads import fair_share, limit_blas
from psdp.checkpoint import read_manifest, say_which_weights
from psdp.cores import cpu_quota, own_cores
from psdp.fields import AUTO
from psdp.generation import Sampling, chosen_checkpoint, continuation, load_trained, until

MAX_TOKENS = 256
"""That a text is continued by, unless the task says otherwise, as elsewhere in the harness."""


@register_model("psdp")
class TrainedModel(LM):
    """A checkpoint, as the harness asks it.

    Args:
        checkpoint: run folder, folder of a checkpoint, or URL of copies.
        best: take the run's best checkpoint, not the latest.
        raw_weights: take the weights themselves of a run that has averaged them.
        device: ``cpu``, ``gpu``, or what the harness calls one: a GPU if there is one.
        threads: 0: all cores.
        seed: of what a task has drawn.
        batch_size, max_batch_size: which the harness says to every model; requests are computed
            one by one.
    """

    def __init__(
        self,
        checkpoint: str,
        *,
        best: bool = False,
        raw_weights: bool = False,
        device: str = AUTO,
        threads: int = 0,
        seed: int = 0,
        batch_size: int | str | None = None,
        max_batch_size: int | None = None,
    ) -> None:
        super().__init__()
        threads = threads or fair_share(own_cores(), [own_cores()], cpu_quota())
        limit_blas(threads)
        on = device if device in ("cpu", "gpu") else AUTO
        with chosen_checkpoint(checkpoint, best=best, tell=_tell) as folder:
            manifest = read_manifest(folder)
            say_which_weights(manifest, _tell, raw=raw_weights)
            trained = load_trained(folder, on, threads, raw=raw_weights)
        self._tokenizer, self._sampler = trained.tokenizer, trained.sampler()
        self._scorer, self._seed = trained.scorer(), seed
        self._name = manifest.digest

    @property
    def tokenizer_name(self) -> str:
        """What the harness keeps its requests under."""
        return self._name

    def loglikelihood(
        self, requests: Iterable[Any], disable_tqdm: bool = False
    ) -> list[tuple[float, bool]]:
        """Return of each (context, continuation) the continuation's log-probability, and whether it
        is what the model would write."""
        found: list[tuple[float, bool]] = []
        for context, text in _arguments(requests):
            score = self._scorer.continuation(context, text)
            found.append((score.log_probability, score.greedy))
            self.cache_hook.add_partial("loglikelihood", (context, text), found[-1])
        return found

    def loglikelihood_rolling(
        self, requests: Iterable[Any], disable_tqdm: bool = False
    ) -> list[float]:
        """Return the log-probability of each text."""
        found = []
        for (text,) in _arguments(requests):
            found.append(self._scorer.text(text).log_probability)
            self.cache_hook.add_partial("loglikelihood_rolling", (text,), found[-1])
        return found

    def generate_until(self, requests: Iterable[Any], disable_tqdm: bool = False) -> list[str]:
        """Return how the model goes on with each text, up to one of those at which it is to end."""
        found = []
        for number, (context, how) in enumerate(_arguments(requests)):
            found.append(self._generated(context, how, number))
            self.cache_hook.add_partial("generate_until", (context, how), found[-1])
        return found

    def _generated(self, context: str, how: Mapping[str, Any], number: int) -> str:
        tokens = int(how.get("max_gen_toks", MAX_TOKENS))
        rng = np.random.default_rng([self._seed, number])
        text = continuation(self._tokenizer, self._sampler, context, tokens, sampling_of(how), rng)
        next(text)  # the context
        stops = how.get("until") or []
        for stop in [stops] if isinstance(stops, str) else stops:
            text = until(text, stop)
        return "".join(text)


def sampling_of(how: Mapping[str, Any]) -> Sampling:
    """Return how tokens are chosen, by what a task says of it: the likeliest ones unless it has
    them drawn."""
    temperature = float(how.get("temperature", 1.0 if how.get("do_sample") else 0.0))
    if not how.get("do_sample", temperature > 0):
        temperature = 0.0
    return Sampling(temperature, int(how.get("top_k", 0)), float(how.get("top_p", 1.0)))


def _arguments(requests: Iterable[Any]) -> Iterator[tuple[Any, ...]]:
    return (request.args for request in requests)


def _tell(text: object) -> None:
    print(f"psdp: {text}", file=sys.stderr)
