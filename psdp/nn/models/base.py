"""What an architecture offers: its parameters, a model that trains, and one that samples."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Protocol

import numpy as np

from psdp.backend import Backend
from psdp.config import Config
from psdp.data.batches import TextBatch
from psdp.errors import ConfigError
from psdp.params import Array, ParamTable
from psdp.task import Measured, Step


class Sampler(Protocol):
    """A model for growing sequences that are of one length, at most ``block_size`` tokens.

    Attributes:
        most: sequences that there may be.
    """

    backend: Backend
    block_size: int
    most: int

    @property
    def length(self) -> int:
        """How many tokens each was fed."""

    def reset(self, count: int = 1) -> None:
        """Forget everything fed; so many sequences begin."""

    def select(self, rows: Sequence[int]) -> None:
        """Go on with these of the sequences, in this order; one may be among them several times."""

    def feed(self, tokens: Array) -> Array:
        """Append ``tokens`` (B, n), n >= 1, and return the logits (B, V) of what follows the last
        of each sequence, on the backend.

        Raises:
            DataError: they would outgrow block_size, or a token is outside the vocabulary.
        """


class LanguageModel(ABC):
    """A model that predicts the next token, for batches of ``run.batch_size`` sequences.

    Attributes:
        loss: see :class:`psdp.task.Model`, which this is.
        buffers: the bytes of what it keeps, by name, for who must know what fills a GPU.
    """

    loss: Array
    buffers: Mapping[str, int]

    @abstractmethod
    def __init__(
        self,
        config: Config,
        vocab_size: int,
        backend: Backend,
        weights: Array,
        gradient: Array | None,
    ) -> None:
        """Make it of views of ``weights`` and ``gradient``, (P,) on the backend; without a gradient
        it only evaluates."""

    @staticmethod
    @abstractmethod
    def table(config: Config, vocab_size: int) -> ParamTable:
        """Return every parameter; matrices are decayed."""

    @abstractmethod
    def add_gradient(self, batch: TextBatch, step: Step) -> None:
        """See :class:`psdp.task.Model`; the mean is of the targets that count.

        Raises:
            DataError: a token is outside the vocabulary.
        """

    @abstractmethod
    def evaluate(self, batch: TextBatch) -> Measured:
        """See :class:`psdp.task.Model`.

        Raises:
            DataError: a token is outside the vocabulary.
        """

    @staticmethod
    def sampler(config: Config, vocab_size: int, backend: Backend, weights: Array) -> Sampler:
        """Return the model with these weights (P,), on the backend, for generation.

        Raises:
            ConfigError: this architecture has none.
        """
        raise ConfigError(f"--architecture {config.model.architecture} cannot generate text")


def measured(losses: Array, right: Array, counted: Array) -> Measured:
    """Return what the losses of tokens, nats, and whether each was predicted right add up to, over
    those that are ``counted``; all (B, T)."""
    loss = float(losses[counted].sum(dtype=np.float64))
    return Measured(int(counted.sum()), loss, int(right[counted].sum()))
