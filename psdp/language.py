"""The task that ``python -m psdp.worker`` trains on: to predict the next token of a text."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

from psdp.backend import Backend
from psdp.backend.gpu.backend import GpuBackend
from psdp.checkpoint.layout import ATTACHED
from psdp.config import Config
from psdp.data.batches import Batches, TextBatch, Validation
from psdp.data.changes import changes
from psdp.data.corpus import Corpus
from psdp.data.partition import Grid
from psdp.data.tokens import Tokens
from psdp.nn.memory import training_memory
from psdp.nn.models import LanguageModel, language_model
from psdp.params import Array
from psdp.task import Share, Task

SEQUENCES = 12
"""Of a batch of ``--eval-batches``, whatever ``--batch-size`` is."""


class Language(Task):
    """Windows of a corpus, whose every token is to be predicted from those before it.

    Args:
        train, val: the two parts of the corpus. Without them it says what there is to train, and
            trains nothing.
    """

    unit = "token"
    measures = ("perplexity", "accuracy")

    def __init__(
        self,
        config: Config,
        vocab_size: int,
        train: Tokens | None = None,
        val: Tokens | None = None,
    ) -> None:
        """
        Raises:
            DataError: one of the two is too short for a window.
        """
        if train is not None:
            self._grid = Grid(train.size, config.model.block_size, config.run.seed)
        self.config, self.vocab_size = config, vocab_size
        self.architecture = language_model(config.model.architecture)
        self.table = self.architecture.table(config, vocab_size)
        self.units_per_batch = config.run.batch_size * config.model.block_size
        self._corpus: Corpus | None = None
        self._train = train
        self._batches: dict[Share, Batches] = {}
        self._validation: Validation | None = None
        if config.data.val_fraction and val is not None:
            sequences = SEQUENCES * config.run.eval_batches
            length, rows = config.model.block_size, config.run.batch_size
            self._validation = Validation(val, length, rows, sequences)
            self.validation_units = self._validation.units
            self.validation_split_units = self._validation.split_units

    @classmethod
    def of(cls, config: Config, corpus: Corpus) -> Language:
        """Return the task of these settings and this corpus.

        Raises:
            DataError: its validation split is too short for a window.
        """
        task = cls(config, corpus.vocab_size, corpus.train, corpus.val)
        task._corpus, task.description = corpus, corpus.description
        return task

    @property
    def corpus(self) -> Corpus:
        """What it was made of."""
        assert self._corpus is not None, "made without one"
        return self._corpus

    def identity(self) -> Mapping[str, Any]:
        """Return what a checkpoint says of the task; with settings and weights, all that generate
        needs."""
        return {
            "vocab_size": self.vocab_size,
            "tokenizer": self.corpus.tokenizer.to_json(),
            "corpus_sha256": self.corpus.sha256,
            **({ATTACHED: dict(files)} if (files := self.corpus.tokenizer.files()) else {}),
        }

    def difference(self, told: Mapping[str, Any]) -> str | None:
        if "task" in told:
            return f"of {told['task']['name']}, this one is of a model of language"
        sha256, own = told.get("corpus_sha256"), self.corpus.sha256
        if sha256 is None:
            sha256 = told["corpus"]["sha256"]
        if sha256 == own:
            return None
        record, corpus = told.get("corpus", {}), self.corpus
        before = dict(zip(record.get("files", ()), record.get("crc32", ()), strict=False))
        which = ""
        if record.get("sha256") == sha256:
            which = changes(before, dict(zip(corpus.sources, corpus.checks, strict=True)))
        return (
            f"on a corpus with sha256 {sha256[:16]}..., --corpus has {own[:16]}...{which}; give it "
            "the files as they were, or start a new run (--init-from: with these weights)"
        )

    def record(self) -> Mapping[str, Any]:
        corpus = self.corpus
        return {
            "corpus": {
                "description": corpus.description,
                "sha256": corpus.sha256,
                "vocab_size": corpus.vocab_size,
                "train_tokens": corpus.train.size,
                "val_tokens": corpus.val.size,
                "order": self._grid.order,
                "files": list(corpus.sources),
                "crc32": list(corpus.checks),
            }
        }

    def batch(self, share: Share, number: int) -> TextBatch:
        """See :class:`psdp.task.Task`.

        Raises:
            DataError: the corpus is too short for the block size or the number of workers.
        """
        assert self._train is not None, "made without a corpus"
        batches = self._batches.get(share)
        if batches is None:
            batches = self._batches[share] = Batches(
                self._train,
                block_size=self.config.model.block_size,
                batch_size=self.config.run.batch_size,
                worker=share.worker,
                workers=share.workers,
                partition=self.config.data.partition,
                seed=share.seed,
            )
        return batches.batch(number)

    def validation(self, part: int, parts: int) -> Iterator[TextBatch]:
        if self._validation is not None:
            yield from self._validation.batches(self._validation.part(part, parts))

    def model(self, backend: Backend, weights: Array, gradient: Array | None) -> LanguageModel:
        return self.architecture(self.config, self.vocab_size, backend, weights, gradient)

    def training_memory(self, backend: Backend) -> Counter[str]:
        assert isinstance(backend, GpuBackend), "of a GPU"
        how = str(backend.dtype), backend.precision, backend.libraries
        return training_memory(self.config, self.vocab_size, *how)
