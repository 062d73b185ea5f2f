"""Training in which workers reduce gradients among themselves, as data-parallel training without a
server does (Horovod, arXiv:1802.05799; PyTorch DDP, arXiv:2006.15704).

Every worker holds all weights and the whole optimizer, and makes every update itself.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable

from psdp.backend.squares import clip_coefficient
from psdp.checkpoint import Snapshot
from psdp.job import Job
from psdp.optim import WeightAverage
from psdp.params import Array
from psdp.protocol import some_of
from psdp.transport.messages import Train
from psdp.workers.counting import counted_by_all
from psdp.workers.replica import Replica
from psdp.workers.training import Gradient, OwnOptimizer, Trained

Report = Callable[[int, int, int, int, float, float], None]
"""Tells rank 0 of steps that are done: the first one's number, how many, of how many workers, the
units that counted for all workers if not all did, the mean loss of these workers, and the sum of
squares of the last mean gradient."""


class ReducedTraining(OwnOptimizer):
    """Steps of ``sync`` without its server: gradient, allreduce, mean, clip, update.

    Args:
        gradient: of this rank's workers, added up.
        reduce: makes the replica's gradient the sum of all workers'.
        workers: of this rank.
        snapshot: of a resumed run: its optimizer is taken up.
        averages: whether this rank keeps the average of the weights, for all.
    """

    def __init__(
        self,
        job: Job,
        replica: Replica,
        gradient: Gradient,
        reduce: Callable[[], None],
        report: Report,
        snapshot: Snapshot | None = None,
        *,
        workers: int = 1,
        averages: bool = False,
    ) -> None:
        super().__init__(job, replica, gradient)
        self._reduce = reduce
        self._report = report
        self._share = 1 / len(job.workers)
        self._workers = workers
        self._first = True
        self._average: WeightAverage | None = None
        if averages:
            self._average = WeightAverage(job.config.optim.ema, job.whole, replica.backend)
        if snapshot is not None:
            self._optimizer.load(snapshot.optimizer, snapshot.updates)
            if self._average is not None:
                self._average.load(snapshot.evaluated)

    def train(self, order: Train, version: int) -> Trained:
        """Take the steps of an order, and report those where a record is due.

        It ends early with a mean gradient that is not finite, which is the same for all workers
        and is reported.
        """
        end, total = order.clock + order.steps, 0.0
        losses: list[float] = []
        counts: list[int] = []
        if self._average is not None and not self._average.begun:
            self._average.begin(self.replica.own_weights)
        for clock in range(order.clock, end):
            self.gradient(clock, clock, True)
            self.replica.fetch()
            losses.append(self.replica.take_loss() / self._workers)
            counts.append(counted_by_all(self.job, clock))
            total += losses[-1]
            self._reduce()
            self.replica.put_back()
            backend = self.replica.backend
            # As a server would find it.
            parts = backend.squares(self.replica.own_gradient, self.job.whole)
            squares = math.fsum(parts) * self._share**2
            finite = math.isfinite(squares)
            if finite:
                limit = self.job.config.optim.grad_clip
                self.update(clock, self._share * clip_coefficient(math.sqrt(squares), limit))
                if self._average is not None:
                    self._average.add(self.replica.own_weights, clock, 1)
            if self._recorded(clock) or clock + 1 == end or not finite:
                self._tell(clock + 1 - len(losses), losses, counts, squares)
                losses.clear()
                counts.clear()
            if not finite:
                return Trained(math.nan, version)
        return Trained(total / order.steps, version)

    def _tell(self, begin: int, losses: list[float], counts: list[int], squares: float) -> None:
        """Report some steps, by the loss of each and the units that counted."""
        whole, counted = self.job.units_per_step, sum(counts)
        shares = [count / whole for count in counts]
        loss = sum(map(operator.mul, shares, losses)) / sum(shares)
        some = some_of(len(losses) * whole, counted)
        self._report(begin, len(losses), self._workers, some, loss, squares)

    def state(self) -> list[Array]:
        self.replica.unload()
        vectors = list(self._optimizer.state().values())
        vectors += [] if self._average is None else [self._average.values]
        return [self.replica.weights, *map(self.replica.backend.on_host, vectors)]

    def _recorded(self, clock: int) -> bool:
        """Say whether a train record is due after this step; one is after the first of a start."""
        first, self._first = self._first, False
        return first or (clock + 1) % self.job.config.run.log_every == 0
