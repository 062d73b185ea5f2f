"""What a worker computes between two exchanges: a gradient, or steps of an optimizer of its own.

A worker's inner optimizer keeps its moments from round to round. They are nobody else's: they are
kept in a checkpoint by the worker's own rank, and begin afresh on another one.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from psdp.backend import Scalar
from psdp.checkpoint import Inner
from psdp.errors import CheckpointError
from psdp.job import Job
from psdp.modes import Pushed
from psdp.optim import Schedule, make_optimizer
from psdp.params import Array
from psdp.records.profile import UPDATE
from psdp.transport.messages import Train
from psdp.workers.replica import Replica

Gradient = Callable[[int, int, bool], None]
"""Computes the gradient of a clock, of a batch, into the replica's, which may leave it at once, and
adds up its loss there."""


@dataclass(frozen=True)
class Trained:
    """What is to be pushed: its mean loss, and the version that it began from."""

    loss: float
    version: int


class Training(ABC):
    """What a worker does with the weights of an answer, until it pushes."""

    def __init__(self, job: Job, replica: Replica, gradient: Gradient) -> None:
        self.job = job
        self.replica = replica
        self.gradient = gradient

    @abstractmethod
    def train(self, order: Train, version: int) -> Trained:
        """Leave in the replica's gradient what is to be pushed; ``version`` is of the weights."""

    def merged(self) -> None:  # noqa: B027 (most keep what has landed)
        """The answer to a push has landed in the replica's weights."""

    def pulled(self) -> None:  # noqa: B027
        """The server's weights have landed there without a push."""

    def crowd(self) -> None:  # noqa: B027
        """The replica computes for other workers too, from now on: nothing may be left in its
        vectors from one order to the next."""

    def state(self) -> list[Array]:
        """Return the weights and the optimizer's vectors (P,) that this worker shares with all
        others, for rank 0 to keep; nothing where it pushes its gradient."""
        return []


class GradientTraining(Training):
    """One gradient."""

    def train(self, order: Train, version: int) -> Trained:
        self.gradient(order.clock, order.batch, True)
        self.replica.fetch()
        return Trained(self.replica.take_loss(), version)


class OverlappedTraining(Training):
    """One gradient, and the next while it travels: on the weights of before, one exchange older
    than without overlap (pipelined SGD, Li et al. 2018, arXiv:1811.03619).

    It is in the replica's own vectors until it is pushed, with the order to do so.
    """

    def __init__(self, job: Job, replica: Replica, gradient: Gradient) -> None:
        super().__init__(job, replica, gradient)
        self._ahead: Trained | None = None

    def train(self, order: Train, version: int) -> Trained:
        trained = self._ahead or self._compute(order.clock, version)
        self._ahead = None
        self.replica.fetch()
        return trained

    def meanwhile(self, order: Train, version: int) -> None:
        """What was trained as ordered is on its way: compute what comes after it."""
        # With one gradient each that is out now the budget may be spent.
        out = len(self.job.workers) * self.job.units_per_gradient
        if order.units + out < self.job.units:
            self._ahead = self._compute(order.clock + 1, version)

    def crowd(self) -> None:
        self._ahead = None

    def _compute(self, clock: int, version: int) -> Trained:
        # What left last is still on its way out of the vector that this one would go to.
        self.gradient(clock, clock, False)
        return Trained(self.replica.take_loss(), version)


class OwnOptimizer(Training):
    """Runs the job's optimizer on weights of the worker's own, where the layers see them."""

    def __init__(self, job: Job, replica: Replica, gradient: Gradient) -> None:
        super().__init__(job, replica, gradient)
        config, backend = job.config, replica.backend
        self._optimizer = make_optimizer(config.optim, job.whole, backend)
        self._schedule = Schedule(config.optim, config.run.max_steps)

    def update(self, steps: float, scale: Scalar) -> None:
        """Update the weights with ``scale`` times the gradient, which is left as it is.

        Args:
            steps: of the schedule before this one.
        """
        with self.replica.profile.span(UPDATE):
            self._optimizer.step(
                self.replica.own_weights,
                self.replica.own_gradient,
                self._schedule.lr(steps),
                scale=scale,
                clip_value=self.job.config.optim.grad_clip_value,
            )


class LocalTraining(OwnOptimizer):
    """Some steps of the job's optimizer; pushed is the weights at the start minus those at the end
    (local SGD, Stich 2018, arXiv:1805.09767; DiLoCo, arXiv:2311.08105)."""

    def __init__(self, job: Job, replica: Replica, gradient: Gradient) -> None:
        super().__init__(job, replica, gradient)
        self._start: Array = self._optimizer.backend.zeros(job.table.size)

    def copy(self, into: Inner) -> None:
        """Make ``into`` what this worker has for itself now, on the host; but for its clock."""
        into.updates, into.answered = self._optimizer.updates, True
        self._copy(self._optimizer.state(), into.optimizer)

    def restore(self, inner: Inner) -> None:
        """Copy a saved state in, for the worker to go on as it would have.

        Raises:
            CheckpointError: it is of another kind of worker.
        """
        self._optimizer.load(inner.optimizer, inner.updates)

    def _copy(self, vectors: Mapping[str, Array], into: dict[str, Array]) -> None:
        for name, vector in vectors.items():
            if name not in into:
                into[name] = np.empty(vector.size, vector.dtype)
            self.replica.backend.to_host(vector, into[name])

    def train(self, order: Train, version: int) -> Trained:
        replica, start = self.replica, self._start
        start[...] = replica.own_weights
        loss = self.steps(order)
        if math.isfinite(loss):
            np.subtract(start, replica.own_weights, out=replica.own_gradient)
        replica.fetch()
        return Trained(loss, version)

    def steps(self, order: Train) -> float:
        """Train for the steps of an order; return the mean loss.

        It ends early with a gradient that is not finite, which rank 0 is to see. A GPU, which is
        not waited for between steps, goes on to the last with weights that such a one has spoilt.
        """
        replica, limit = self.replica, self.job.config.optim.grad_clip
        done = order.units / self.job.units_per_step
        for step in range(order.steps):
            self.gradient(order.clock + step, order.batch + step, False)
            coefficient = replica.backend.clip_coefficient(replica.own_gradient, limit)
            if isinstance(coefficient, float) and math.isnan(coefficient):
                return math.nan
            self.update(done + step, coefficient)
        return replica.take_loss() / order.steps


class ElasticTraining(LocalTraining):
    """Some steps on weights that stay this worker's own; pushed are these weights, and each answer
    draws them to the server's (elastic averaging, Zhang et al. 2015, arXiv:1412.6651).

    The server moves its weights c by a (x - c) towards the worker's x, and answers with c'. The
    worker moves by as much the other way, which it finds from c': c' - x = (1 - a) (c - x). Where
    x is rounded on its way, that holds of the rounded one, and the worker's own stays as it is.

    Attributes:
        seen: the worker's weights (P,) as the server saw them last.
    """

    def __init__(self, job: Job, replica: Replica, gradient: Gradient) -> None:
        super().__init__(job, replica, gradient)
        self._pull = job.elastic_rate / (1 - job.elastic_rate)
        self.seen: Array = self._start
        if not replica.codec.as_it_is:
            self.seen = replica.backend.zeros(job.table.size)
        self._begun = False
        self._answered = True

    def train(self, order: Train, version: int) -> Trained:
        replica = self.replica
        loss = self.steps(order)
        if math.isfinite(loss):
            replica.own_gradient[...] = replica.own_weights
        self._start[...] = replica.own_weights
        replica.fetch()
        if self.seen is not self._start:
            self.seen[...] = replica.decoded()
        self._answered = False
        return Trained(loss, version)

    def merged(self) -> None:
        weights, own = self.replica.own_weights, self._start
        np.subtract(weights, self.seen, out=weights)
        np.multiply(weights, self._pull, out=weights)
        np.add(own, weights, out=own)
        self._answered = True
        self._restore()

    def pulled(self) -> None:
        if not self._begun:
            self._start[...] = self.replica.own_weights
            self._begun = True
        elif self._answered:
            self._restore()
        else:  # what was pushed before the run ended is answered only now
            self.merged()

    def copy(self, into: Inner) -> None:
        super().copy(into)
        into.answered = self._answered
        self._copy(self._own(), into.own)

    def restore(self, inner: Inner) -> None:
        super().restore(inner)
        own = self._own()
        if own.keys() != inner.own.keys():
            raise CheckpointError(
                f"expected the vectors {sorted(own)} of a worker, got {sorted(inner.own)}; resume "
                "with the --mode and --wire-dtype that wrote the checkpoint"
            )
        for name, vector in own.items():
            self.replica.backend.to_device(inner.own[name], vector)
        self._begun, self._answered = True, inner.answered

    def _own(self) -> dict[str, Array]:
        """Return the worker's weights (P,), and these as the server saw them last, where they are
        rounded on their way."""
        seen = {} if self.seen is self._start else {"seen": self.seen}
        return {"weights": self._start, **seen}

    def _restore(self) -> None:
        self.replica.own_weights[...] = self._start


_KINDS: dict[Pushed, type[Training]] = {
    Pushed.GRADIENT: GradientTraining,
    Pushed.CHANGE: LocalTraining,
    Pushed.SHARE: LocalTraining,
    Pushed.WEIGHTS: ElasticTraining,
}


def make_trainings(job: Job, replica: Replica, gradient: Gradient) -> Mapping[Pushed, Training]:
    """Return what a worker does where each kind of push is wanted: the same for two kinds that are
    made alike, whose optimizer goes on from one to the other."""
    kinds = {kind: _KINDS[kind] for kind in job.pushes}
    if job.config.run.overlap:
        kinds |= {Pushed.GRADIENT: OverlappedTraining}
    made = {cls: cls(job, replica, gradient) for cls in dict.fromkeys(kinds.values())}
    return {kind: made[cls] for kind, cls in kinds.items()}
