"""The task that ``python -m psdp.worker`` trains on: to predict the next token of a text."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from psdp.backend import Backend
from psdp.backend.gpu.backend import GpuBackend
from psdp.checkpoint.layout import ATTACHED
from psdp.config import Config
from psdp.data.batches import Batches, TextBatch, Validation
from psdp.data.changes import changes
from psdp.data.corpus import Corpus
from psdp.data.documents import Documents, Marks
from psdp.data.tokenizer import IdTokenizer
from psdp.data.tokens import Tokens
from psdp.data.windows import Elsewhere, Grid, SideBySide, Windows
from psdp.errors import ConfigError
from psdp.generation import Sampling, continuation
from psdp.nn.memory import training_memory
from psdp.nn.models import LanguageModel, language_model
from psdp.params import Array
from psdp.task import Share, Task

SEQUENCES = 12
"""Of a batch of ``--eval-batches``, whatever ``--batch-size`` is."""


@dataclass(frozen=True)
class Counts:
    """What is counted in a corpus: windows to train on, and the targets in them that count; and
    those of an evaluation, of the whole that it is a sample of, and the bytes that they stand for.
    """

    windows: int
    train: int
    validation: int
    validation_split: int
    validation_bytes: int


class Language(Task):
    """Windows of a corpus, whose tokens are to be predicted from those before them in the window.

    Args:
        train, val: the two parts of the corpus. Without them it says what there is to train, and
            trains nothing.
        marks: of documents, where windows respect these.
        counts: of a corpus that cannot be read here.

    Attributes:
        windows: to train on, of a task with a corpus.
    """

    unit = "token"
    measures: tuple[str, ...] = ("perplexity", "accuracy")

    def __init__(
        self,
        config: Config,
        vocab_size: int,
        train: Tokens | None = None,
        val: Tokens | None = None,
        marks: Marks | None = None,
        counts: Counts | None = None,
    ) -> None:
        """
        Raises:
            DataError: one of the two is too short for a window.
        """
        self.config, self.vocab_size = config, vocab_size
        self.architecture = language_model(config.model.architecture)
        self.table = self.architecture.table(config, vocab_size)
        self.units_per_batch = config.run.batch_size * config.model.block_size
        self._corpus: Corpus | None = None
        self._train = train
        self._marks = marks
        self._batches: dict[Share, Batches] = {}
        self._validation: Validation | None = None
        if train is None:
            return
        size = train.size, config.model.block_size
        if counts is not None:
            self.windows: Windows = Elsewhere(*size, counts.windows, counts.train)
            self.validation_units = counts.validation
            self.validation_split_units = counts.validation_split
            return
        self.windows = self._documents(train, "training") or Grid(*size, config.run.seed)
        if config.data.val_fraction and val is not None:
            sequences = SEQUENCES * config.run.eval_batches
            windows = self._documents(val, "validation")
            windows = windows or SideBySide(val.size, config.model.block_size)
            self._validation = Validation(val, windows, config.run.batch_size, sequences)
            self.validation_units = self._validation.units
            self.validation_split_units = self._validation.split_units

    def _documents(self, tokens: Tokens, split: str) -> Windows | None:
        """Return the windows of documents, where these are respected."""
        if self._marks is None:
            return None
        return Documents(tokens, self._marks, self.config.model.block_size, split)

    @classmethod
    def of(cls, config: Config, corpus: Corpus, counts: Counts | None = None) -> Language:
        """Return the task of these settings and this corpus, with ``counts`` of one that cannot be
        read here.

        Raises:
            DataError: its validation split is too short for a window.
        """
        parts = corpus.train, corpus.val, corpus.marks
        task = cls(config, corpus.vocab_size, *parts, counts)
        task._corpus, task.description = corpus, corpus.description
        task.validation_bytes = task._text_bytes() if counts is None else counts.validation_bytes
        if task.validation_bytes:
            task.measures = (*cls.measures, "bits_per_byte")
        return task

    def _text_bytes(self) -> int:
        """Return how many bytes the targets of an evaluation stand for."""
        each = self.corpus.tokenizer.byte_counts()
        if each is None or self._validation is None:
            return 0
        return self._validation.text_bytes(each)

    @property
    def counts(self) -> Counts:
        """What is counted in its corpus."""
        return Counts(
            windows=self.windows.count,
            train=self.windows.units,
            validation=self.validation_units,
            validation_split=self.validation_split_units,
            validation_bytes=self.validation_bytes,
        )

    def check_samples(self) -> None:
        """See that :meth:`sample` can make what it is to.

        Raises:
            ConfigError: tokens stand for no text here, or the model makes none.
            DataError: a character of the prompt is not in the vocabulary.
        """
        if isinstance(self.corpus.tokenizer, IdTokenizer):
            raise ConfigError(
                "--sample-every makes texts, and the corpus is of bare token ids; name their "
                "tokenizer (--tokenizer), or drop the flag"
            )
        self.corpus.tokenizer.encode(self.config.run.sample_prompt or "")
        if self.architecture.sampler is LanguageModel.sampler:
            raise ConfigError(
                f"--sample-every: --architecture {self.config.model.architecture} makes no text; "
                "drop the flag"
            )

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
                "order": self.windows.order,
                "windows": self.windows.count,
                "train_counted": self.windows.units,
                "val_counted": self.validation_units,
                "val_bytes": self.validation_bytes,
                "files": list(corpus.sources),
                "crc32": list(corpus.checks),
            }
        }

    def batch(self, share: Share, number: int) -> TextBatch:
        """See :class:`psdp.task.Task`.

        Raises:
            DataError: the corpus is too short for the block size or the number of workers.
        """
        return self._batches_of(share).batch(number)

    def counted(self, share: Share, number: int) -> int:
        if self._marks is None:
            return self.units_per_batch
        return self._batches_of(share).counted(number)

    def _batches_of(self, share: Share) -> Batches:
        assert self._train is not None, "made without a corpus"
        batches = self._batches.get(share)
        if batches is None:
            batches = self._batches[share] = Batches(
                self._train,
                self.windows,
                batch_size=self.config.run.batch_size,
                worker=share.worker,
                workers=share.workers,
                partition=self.config.data.partition,
                seed=share.seed,
            )
        return batches

    def validation(self, part: int, parts: int) -> Iterator[TextBatch]:
        if self._validation is not None:
            yield from self._validation.batches(self._validation.part(part, parts))

    def validation_batches(self, part: int, parts: int) -> int:
        """Return how many :meth:`validation` yields."""
        return 0 if self._validation is None else len(self._validation.part(part, parts))

    def sample(self, backend: Backend, weights: Array, rng: np.random.Generator) -> Iterator[str]:
        run, tokenizer = self.config.run, self.corpus.tokenizer
        sampler = self.architecture.sampler(self.config, self.vocab_size, backend, weights)
        prompt, tokens = run.sample_prompt or "", run.sample_tokens
        yield from continuation(tokenizer, sampler, prompt, tokens, Sampling(), rng)

    def model(self, backend: Backend, weights: Array, gradient: Array | None) -> LanguageModel:
        return self.architecture(self.config, self.vocab_size, backend, weights, gradient)

    def training_memory(self, backend: Backend) -> Counter[str]:
        assert isinstance(backend, GpuBackend), "of a GPU"
        how = str(backend.dtype), backend.precision, backend.libraries
        return training_memory(self.config, self.vocab_size, *how)
