"""What is trained, and with what: the two protocols between psdp and a problem of one's own.

A :class:`Task` says what the parameters are, what a batch is, and what is measured; its
:class:`Model` computes on flat vectors. Everything else, from the servers to the records, knows no
more of a problem than this.
"""

from __future__ import annotations

import json
from abc import abstractmethod
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from types import MappingProxyType
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from psdp.backend import Backend
from psdp.errors import ConfigError, DataError
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

    def rows(self, number: int, size: int, of: int) -> Array:
        """Return the rows (size,) of batch ``number``, of a table of ``of`` rows.

        Every epoch goes through all rows in an order of its own, and leaves out what fills no batch
        of every worker. Batches of one number of W workers are together that batch of a lone worker
        with W times the size.

        Raises:
            DataError: there are fewer rows than a batch of every worker takes.
        """
        batches = of // (size * self.workers)
        if not batches:
            raise DataError(
                f"{of} rows are too few for {self.workers} worker(s) with batches of {size}; "
                "lower --batch-size, or start fewer workers"
            )
        epoch, nth = divmod(number, batches)
        start = (nth * self.workers + self.worker) * size
        return _order(self.seed, epoch, of)[start : start + size].copy()


@lru_cache(maxsize=2)
def _order(seed: int, epoch: int, of: int) -> Array:
    return np.random.default_rng([seed, epoch]).permutation(of)


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
        name: what checkpoints call it; that of its class where it is left out.
        about: what else tells it from others with the same parameters, as plain JSON: a run is
            gone on with by a task that says the same.
        description: of what it trains on, for the first line of a run.
        unit: what budgets are counted in: "token", "sample", "pair"; with an s for several.
        validation_units: of one evaluation, in ``unit``.
        validation_split_units: of the whole that an evaluation is a sample of; 0: it is all.
        validation_bytes: of text that those of one evaluation stand for; 0: they stand for none.
        measures: what an evaluation shows beside the loss, of "perplexity", "accuracy" and
            "bits_per_byte".
    """

    table: ParamTable
    units_per_batch: int
    name: str = ""
    about: Mapping[str, Any] = MappingProxyType({})
    description: str = ""
    unit: str = "sample"
    validation_units: int = 0
    validation_split_units: int = 0
    validation_bytes: int = 0
    measures: tuple[str, ...] = ()

    @abstractmethod
    def batch(self, share: Share, number: int) -> Any:
        """Return batch ``number``, from 0, of what a worker reads: a pure function of both. Its
        arrays may be filled again by the next call.

        Raises:
            DataError: there is none; asked for number 0 before training begins, it says so.
        """

    def counted(self, share: Share, number: int) -> int:
        """Return of how many units :meth:`batch` gives the mean loss, at least 1: each of them
        weighs the same in a step, in whichever batch it is."""
        return self.units_per_batch

    def validation(self, part: int, parts: int) -> Iterator[Any]:
        """Yield the batches of one of so many parts of an evaluation, the same ones each time."""
        yield from ()

    @abstractmethod
    def model(self, backend: Backend, weights: Array, gradient: Array | None) -> Model:
        """Return a model whose parameters are views of ``weights``, and their gradients of
        ``gradient``, both (P,) on the backend; without a gradient it only evaluates."""

    def sample(self, backend: Backend, weights: Array, rng: np.random.Generator) -> Iterator[str]:
        """Yield, piece by piece, a text that weights (P,), on the backend, make, for a person to
        read; what is drawn is drawn with ``rng``.

        Raises:
            NumericsError: these weights make none.
        """
        yield from ()

    def initial(self, seed: int, dtype: npt.DTypeLike) -> Array:
        """Return fresh weights (P,), the same on every rank."""
        return self.table.initial(seed, dtype)

    def called(self) -> str:
        """Return its name."""
        return self.name or type(self).__name__

    def identity(self) -> Mapping[str, Any]:
        """Return what a checkpoint says of the task beside its parameters, as plain JSON."""
        return {"task": {"name": self.called(), "about": dict(self.about)}}

    def record(self) -> Mapping[str, Any]:
        """Return what config.json says of the task, as plain JSON."""
        return self.identity()

    def difference(self, told: Mapping[str, Any]) -> str | None:
        """Return of what other task a run was, of which a checkpoint or config.json tells this, as
        the end of a sentence; None if it was of this one."""
        if "task" not in told:
            return f"of a model of language, this one is of {self.called()}"
        name, about = told["task"]["name"], told["task"]["about"]
        if name != self.called():
            return f"of {name}, this one is of {self.called()}"
        own = json.loads(json.dumps(dict(self.about)))
        for key in sorted(own.keys() | about.keys()):
            if own.get(key) != about.get(key):
                return f"with {key} {about.get(key)!r}, this one has {own.get(key)!r}"
        return None

    def training_memory(self, backend: Backend) -> Counter[str]:
        """Return the bytes by name that a model takes in training on a GPU, both flat vectors
        included, so far as they are known before it is made there.

        Args:
            backend: that it will be made on.
        """
        each = self.table.size * backend.dtype.itemsize
        return Counter({"weights": each, "gradient": each})


class Views(dict[str, Array]):
    """Views of a flat vector by the parameters' names, which cannot be taken for something else."""

    def __setitem__(self, name: str, value: Any) -> None:
        if name not in self or value is not self[name]:
            raise TypeError(
                f"['{name}'] is a view of a flat vector: write into it (+=, or [...] =) and put "
                "nothing else in its place"
            )


class NumpyTask(Task):
    """A task of two functions, on NumPy's arrays: the gradient of a batch, and its evaluation.

    Weights and gradients are given as views of flat vectors, by the names of the table; weights
    cannot be written.
    """

    @abstractmethod
    def add_gradient(
        self, weights: Mapping[str, Array], gradient: Mapping[str, Array], batch: Any
    ) -> float:
        """Add the gradient of the mean loss of ``batch`` to that of each parameter, in place;
        return that loss."""

    def losses(self, weights: Mapping[str, Array], batch: Any) -> Measured:
        """Return what the losses of ``batch`` add up to, where something is evaluated."""
        raise NotImplementedError(
            f"{self.called()} has validation batches and no losses(weights, batch)"
        )

    def model(self, backend: Backend, weights: Array, gradient: Array | None) -> Model:
        """See :class:`Task`.

        Raises:
            ConfigError: it is to compute on a GPU.
        """
        if backend.name != "cpu":
            raise ConfigError(
                f"{self.called()} computes with NumPy: drop --device, or make it a psdp.Task whose "
                "model computes on a GPU"
            )
        return _NumpyModel(self, weights, gradient)


class _NumpyModel(Model):
    """The functions of a :class:`NumpyTask`, on views."""

    def __init__(self, task: NumpyTask, weights: Array, gradient: Array | None) -> None:
        self.loss = np.zeros(1)
        self._task = task
        read_only = weights.view()
        read_only.flags.writeable = False
        self._weights = Views(task.table.views(read_only))
        self._gradient = gradient
        self._added = None if gradient is None else Views(task.table.views(gradient))

    def add_gradient(self, batch: Any, step: Step) -> None:
        gradient, added = self._gradient, self._added
        assert gradient is not None, "made to evaluate"
        assert added is not None, "made to evaluate"
        if step.scale != 1.0:
            earlier = gradient.copy()
            gradient[...] = 0
        loss = self._task.add_gradient(self._weights, added, batch)
        if not isinstance(loss, int | float | np.number | np.ndarray):
            raise TypeError(
                f"{self._task.called()}.add_gradient returned {loss!r:.40}, expected the mean loss "
                "of the batch"
            )
        if step.scale != 1.0:
            gradient *= step.scale
            gradient += earlier
        self.loss += step.scale * float(loss)
        if step.ready is not None:
            step.ready(slice(None))

    def evaluate(self, batch: Any) -> Measured:
        return self._task.losses(self._weights, batch)
