"""Gradients of a rank's workers on its replica, and what they take."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import numpy as np

from psdp.config.handicap import parse_jitter, parse_stragglers
from psdp.job import Job
from psdp.records.profile import OTHER
from psdp.task import Step
from psdp.transport.link import LinkSpeed
from psdp.transport.reducer import Reducer
from psdp.workers.counting import counted_by_all, counts
from psdp.workers.exchange import LOOK_UP_S, Exchange
from psdp.workers.handicap import Handicap
from psdp.workers.hosted import Hosted
from psdp.workers.replica import Replica
from psdp.workers.training import Trained

IDLE_S = 0.0005
"""How often a rank that overlaps looks whether its GPU has done what it was asked for."""

DROPOUT_STREAM = 0x64726F70
"""Tells dropout's random numbers from others of the same seed."""


@dataclass(frozen=True)
class Took:
    """What training took: seconds, and processor seconds of this and of all so far; seconds that it
    would have taken with a core always at hand; and the sum of the squares of what came of it."""

    took_s: float
    busy_s: float
    cpu_s: float
    own_s: float
    squares: float


class Computing:
    """Computes on one replica, and takes note of where the time goes.

    Args:
        rank: of this process.
        reducer: adds up the ranks' gradients, with ``--mode allreduce``.
        now: a clock in seconds.
    """

    def __init__(
        self,
        job: Job,
        rank: int,
        replica: Replica,
        exchange: Exchange,
        reducer: Reducer | None,
        now: Callable[[], float],
    ) -> None:
        self._job = job
        self._replica = replica
        self._exchange = exchange
        self._reducer = reducer
        self._now = now
        self._ahead_s = 0.0
        """Of the time that this rank computed, on what is pushed next."""
        self._ahead_used_s = 0.0
        """Of that, when it had a core."""
        self._busy_s = 0.0
        """Processor time of the gradients that are pushed next."""
        self._slept_s = 0.0
        """What this rank's handicap added to them."""
        self._since_s = 0.0
        self._start_s = now()
        run = job.config.run
        self._link = LinkSpeed.of(run)
        self._handicap = Handicap(
            rank,
            job.worker_ranks.index(rank),
            run.seed,
            stragglers=parse_stragglers(run.straggler),
            jitter=parse_jitter(run.jitter),
        )
        # Where ranks share cores, the wall clock would count the steps of others.
        self._on_cpu = replica.backend.name == "cpu"
        self._busy = time.thread_time if self._on_cpu else now
        self._busy_start_s = self._busy()

    def timed(self, train: Callable[[], Trained]) -> tuple[Trained, Took]:
        """Train; return what came of it, and what it took."""
        exchange, span = self._exchange, self._replica.profile.span
        before_s, fetched_s = exchange.compute_s, self._replica.fetch_s
        self._since_s, began_s = self._now(), self._busy()
        with span(OTHER):
            trained = train()
            with span("gradient norm", self._replica.gradient.nbytes):
                squares = self._replica.sum_of_squares()
        self._stop()
        fetched_s = self._replica.fetch_s - fetched_s  # on its way out already
        exchange.compute_s -= fetched_s
        exchange.push_s += fetched_s
        took_s, self._ahead_s = self._ahead_s + exchange.compute_s - before_s, 0.0
        used_s, self._ahead_used_s = self._ahead_used_s + self._busy() - began_s, 0.0
        # A GPU is still at it when a step has been asked for: it is busy for as long as all takes.
        busy_s = self._busy_s if self._on_cpu else took_s - self._slept_s
        own_s = min(took_s, used_s + self._slept_s) if self._on_cpu else took_s
        self._busy_s = self._slept_s = 0.0
        return trained, Took(took_s, busy_s, self._busy() - self._busy_start_s, own_s, squares)

    def ahead(self, train: Callable[[], None]) -> None:
        """Compute what comes after what was pushed; what it takes is counted with its own push."""
        before_s, self._since_s = self._exchange.compute_s, self._now()
        began_s = self._busy()
        with self._replica.profile.span(OTHER):
            train()
        self._stop()
        self._ahead_s = self._exchange.compute_s - before_s
        self._ahead_used_s = self._busy() - began_s

    def gradients(self, hosted: Mapping[int, Hosted], clock: int, batch: int, leaves: bool) -> None:
        """Compute the gradients of all of these, added up; see :meth:`gradient`."""
        for number, own in enumerate(hosted.values(), start=1):
            self.gradient(own, clock, batch, leaves and number == len(hosted), clear=number == 1)

    def gradient(
        self, own: Hosted, clock: int, batch: int, leaves: bool, *, clear: bool = True
    ) -> None:
        """Compute a worker's gradient number ``clock``, of batch ``batch``; the replica adds up its
        loss.

        One that ``leaves`` is fetched next: it may go out part by part, as it is computed. It is
        the mean of all units that count, or, where workers add up theirs, its part of that.
        """
        run, span = self._job.config.run, self._replica.profile.span
        begin_s, since_s = self._busy(), self._now() - self._start_s
        if clear:
            self._replica.clear()
        rng = np.random.default_rng([run.seed, own.number, clock, DROPOUT_STREAM])
        parts = counts(self._job, own.share, batch)
        whole: float = sum(parts)
        if self._reducer is not None:
            # The sum of all workers' gradients, divided by their number, is the mean of all units.
            whole = counted_by_all(self._job, batch) / len(self._job.workers)
        step = Step(rng=rng)
        if run.overlap and self._on_cpu:
            # Of a GPU's step nothing is left to call: it is captured, and queued at once.
            step = replace(step, pulse=self._exchange.move_on)
        for micro, counted in enumerate(parts):
            self._exchange.look_up()
            step = replace(step, scale=counted / whole)
            with span("batches"):
                read = self._job.task.batch(own.share, batch * run.grad_accum + micro)
            if leaves and micro + 1 == run.grad_accum:
                step = replace(step, ready=self._replica.outlet())
            self._replica.model.add_gradient(read, step)
        if run.overlap:
            # What travels by way of the host moves on while a GPU is at it, too.
            while not self._replica.backend.is_idle():
                self._exchange.heed_signal()
                self._exchange.move_on(IDLE_S)
        elif self._handicap.acts:
            self._replica.backend.synchronize()
        busy_s = self._busy() - begin_s
        self._busy_s += busy_s
        # For as long as this rank is slower than it is, on purpose.
        extra_s = self._handicap.extra_s(clock, busy_s, since_s)
        self.pause(extra_s)
        self._slept_s += extra_s

    def _stop(self) -> None:
        self._exchange.compute_s += self._now() - self._since_s

    def pause(self, seconds: float) -> None:
        """Sleep, but heed signals, and move on what travels."""
        end_s = self._now() + seconds
        while (left_s := end_s - self._now()) > 0:
            self._exchange.look_up()
            if self._job.config.run.overlap:
                self._exchange.move_on(min(left_s, LOOK_UP_S))
            else:
                time.sleep(min(left_s, LOOK_UP_S))

    def reduce(self) -> None:
        """Make the replica's gradient the sum of all workers' gradients.

        The time counts as waiting. Counted as sent and received are the bytes that a ring moves,
        the least that an allreduce can do with; a slow link makes all sleep for as long as these
        take (``--link-mbps``).
        """
        assert self._reducer is not None
        begin_s = self._now()
        self._stop()
        gradient, ranks = self._replica.gradient, len(self._job.computing)
        moved = 2 * (ranks - 1) * gradient.nbytes // ranks
        with self._replica.profile.span(self._reducer.operation.lower(), gradient.nbytes):
            self._reducer.begin(gradient)
            self._exchange.let_out()
            while not self._reducer.wait(LOOK_UP_S):
                self._exchange.heed_signal()
                self._exchange.let_out()
            since_s = self._now() - self._start_s
            self.pause(self._link.through_s(since_s, moved) - since_s)
        self._exchange.pushed_bytes += moved
        self._exchange.pulled_bytes += moved
        self._since_s = self._now()
        self._exchange.wait_s += self._since_s - begin_s
