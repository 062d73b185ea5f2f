"""What is trained, and with what: the two protocols between psdp and a problem of one's own.

A :class:`Task` says what the parameters are, what a batch is, and what is measured; its
:class:`Model` computes on flat vectors. Everything else, from the servers to the records, knows no
more of a problem than this.
"""

from __future__ import annotations

from abc import abstractmethod
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from psdp.backend import Backend
from psdp.params import Array, ParamTable


def _nothing() -> None:
    pass


@dataclass(frozen=True)
class Share:
    """The part of the training data that one worker reads: that of number ``worker``, from 0, of
    ``workers``, with this seed."""

    seed: int
    worker: int
    workers: int


@dataclass(frozen=True)
class Step:
    """How the gradient of a batch is to be added.

    Attributes:
        scale: of the batch's mean loss.
        rng: for what is drawn while training, as dropout's masks; without it nothing is.
        ready: called with each part of the flat gradient that this step has added all to, as soon
            as it has, until all were; what it asks of the backend is part of the step. A model
            that does not know sooner calls it once, with ``slice(None)``; None: nobody asks.
        pulse: may be called between layers, for who has other things to look after meanwhile.
    """

    scale: float = 1.0
    rng: np.random.Generator | None = None
    ready: Callable[[slice], None] | None = None
    pulse: Callable[[], None] = _nothing


@dataclass(frozen=True)
class Measured:
    """What a batch of an evaluation adds up to.

    Attributes:
        units: that were counted, in the task's unit.
        loss: their sum, in nats where the loss is a likelihood's.
        correct: how many of them were predicted right, where that has a meaning.
    """

    units: int
    loss: float
    correct: int = 0

    def __add__(self, other: Measured) -> Measured:
        return Measured(
            self.units + other.units, self.loss + other.loss, self.correct + other.correct
        )


class Model(Protocol):
    """What computes a task's loss and its gradient, on views of two flat vectors that it was made
    with (see :meth:`Task.model`): whoever writes into the weights changes the model.

    Attributes:
        loss: (1,) float64 on the backend, to be cleared by whoever adds up losses in it.
    """

    loss: Array

    @abstractmethod
    def add_gradient(self, batch: Any, step: Step) -> None:
        """Add ``step.scale`` times the mean loss of ``batch`` to ``loss``, and as much of its
        gradient to the gradient. A GPU may still be at it on return."""

    @abstractmethod
    def evaluate(self, batch: Any) -> Measured:
        """Return the losses of ``batch``; nothing is drawn and no gradient is written."""


class Task(Protocol):
    """A problem to train on. Every rank has one, made alike.

    Attributes:
        table: the parameters.
        units_per_batch: in ``unit``, of every batch that is trained on.
        unit: what budgets are counted in: "token", "sample", "pair".
        validation_units: of one evaluation, in ``unit``.
        validation_split_units: of the whole that an evaluation is a sample of.
        measures: what an evaluation shows beside the loss, of "perplexity" and "accuracy".
    """

    table: ParamTable
    units_per_batch: int
    unit: str = "sample"
    validation_units: int = 0
    validation_split_units: int = 0
    measures: tuple[str, ...] = ()

    @abstractmethod
    def batch(self, share: Share, number: int) -> Any:
        """Return batch ``number``, from 0, of what a worker reads: a pure function of both. Its
        arrays may be filled again by the next call.

        Raises:
            DataError: there is none; asked for number 0 before training begins, it says so.
        """

    def validation(self, part: int, parts: int) -> Iterator[Any]:
        """Yield the batches of one of so many parts of an evaluation, the same ones each time."""
        yield from ()

    @abstractmethod
    def model(self, backend: Backend, weights: Array, gradient: Array | None) -> Model:
        """Return a model whose parameters are views of ``weights``, and their gradients of
        ``gradient``, both (P,) on the backend; without a gradient it only evaluates."""

    def training_memory(self, backend: Backend) -> Counter[str]:
        """Return the bytes by name that a model takes in training on a GPU, both flat vectors
        included, so far as they are known before it is made there.

        Args:
            backend: that it will be made on.
        """
        each = self.table.size * backend.dtype.itemsize
        return Counter({"weights": each, "gradient": each})
