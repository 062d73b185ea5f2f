"""The task that ``python -m psdp.worker`` trains on: to predict the next token of a text."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from psdp.backend import Backend
from psdp.backend.gpu.backend import GpuBackend
from psdp.config import Config
from psdp.data.batches import Batches, TextBatch, Validation
from psdp.data.partition import Grid
from psdp.nn.memory import training_memory
from psdp.nn.models import LanguageModel, language_model
from psdp.params import Array
from psdp.task import Share, Task

SEQUENCES = 12
"""Of a batch of ``--eval-batches``, whatever ``--batch-size`` is."""


class Language(Task):
    """Windows of a corpus, whose every token is to be predicted from those before it.

    Args:
        train, val: the two parts of the corpus, tokens (N,) of any integer type.
    """

    unit = "token"
    measures = ("perplexity", "accuracy")

    def __init__(self, config: Config, vocab_size: int, train: Array, val: Array) -> None:
        """
        Raises:
            DataError: one of the two is too short for a window.
        """
        Grid(train.size, config.model.block_size, config.run.seed)  # there is a window
        self.config, self.vocab_size = config, vocab_size
        self.architecture = language_model(config.model.architecture)
        self.table = self.architecture.table(config, vocab_size)
        self.units_per_batch = config.run.batch_size * config.model.block_size
        self._train = train
        self._batches: dict[Share, Batches] = {}
        self._validation: Validation | None = None
        if config.data.val_fraction:
            sequences = SEQUENCES * config.run.eval_batches
            length, rows = config.model.block_size, config.run.batch_size
            self._validation = Validation(val, length, rows, sequences)
            self.validation_units = self._validation.units
            self.validation_split_units = self._validation.split_units

    def batch(self, share: Share, number: int) -> TextBatch:
        """See :class:`psdp.task.Task`.

        Raises:
            DataError: the corpus is too short for the block size or the number of workers.
        """
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
