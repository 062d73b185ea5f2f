"""The loop of a rank that computes: gradients as rank 0 orders, and its part of each evaluation."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace

import numpy as np

from psdp.checkpoint import Snapshot
from psdp.config.handicap import parse_jitter, parse_stragglers
from psdp.errors import PeerLost, ProtocolError
from psdp.job import Job
from psdp.modes import Pushed
from psdp.protocol import Sums, Work
from psdp.records.profile import OTHER
from psdp.task import Measured, Step
from psdp.transport import Endpoint
from psdp.transport import messages as m
from psdp.transport.link import seconds_on_link
from psdp.transport.reducer import Reducer
from psdp.workers.exchange import LOOK_UP_S, Exchange
from psdp.workers.handicap import Handicap
from psdp.workers.reduced import ReducedTraining
from psdp.workers.replica import Replica
from psdp.workers.training import OverlappedTraining, Training, make_training

PATIENCE_S = 4.2
"""How long a worker that cannot go on waits for rank 0 to save the weights, and to end all."""

IDLE_S = 0.0005
"""How often a worker that overlaps looks whether its GPU has done what it was asked for."""

DROPOUT_STREAM = 0x64726F70
"""Tells dropout's random numbers from others of the same seed."""


class Worker:
    """Computes what rank 0 orders until it says stop.

    Args:
        reducer: adds up the workers' gradients, with ``--mode allreduce``.
        snapshot: to go on from, where this worker's optimizer is in it.
        signalled: returns the name of a signal that asked this rank to end, or None.
    """

    def __init__(
        self,
        job: Job,
        endpoint: Endpoint,
        replica: Replica,
        *,
        reducer: Reducer | None = None,
        snapshot: Snapshot | None = None,
        signalled: Callable[[], str | None] = lambda: None,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self.job = job
        self.endpoint = endpoint
        self.replica = replica
        self.share = job.share(endpoint.rank)
        self._now = now
        self.exchange = Exchange(job, endpoint, replica, signalled, now)
        self._ahead_s = 0.0
        """Of the time that this worker computed, on what is pushed next."""
        self._busy_s = 0.0
        """Processor time of the gradients that are pushed next."""
        self._slept_s = 0.0
        """What this worker's handicap added to them."""
        self._handicap = Handicap(
            endpoint.rank,
            job.workers.index(endpoint.rank),
            job.config.run.seed,
            stragglers=parse_stragglers(job.config.run.straggler),
            jitter=parse_jitter(job.config.run.jitter),
        )
        self._reducer = reducer
        self.trainings: dict[Pushed, Training] = {}
        for kind in job.mode.pushes:
            if kind is Pushed.NOTHING:
                report = self.exchange.report_steps
                how = job, replica, self._compute, self._reduce, report, snapshot
                self.trainings[kind] = ReducedTraining(*how)
            else:
                self.trainings[kind] = make_training(job, replica, self._compute, kind)
        self._computing_since_s = 0.0
        # Where workers share cores, the wall clock would count the steps of others.
        self._on_cpu = replica.backend.name == "cpu"
        self._busy = time.thread_time if self._on_cpu else now
        self._busy_start_s = self._busy()

    def run(self) -> None:
        """Do what rank 0 orders until it says stop.

        Raises:
            PeerLost: a server is gone.
        """
        with np.errstate(all="ignore"):  # a gradient with NaN or Inf is found and named by rank 0
            answer = self._pull()
            while not isinstance(answer.order, m.Stop):
                answer = self._obey(answer)
        self.exchange.report_costs()
        self.exchange.say_done()

    def _obey(self, answer: m.Answer) -> m.Answer:
        """Do what an answer orders; return the next one."""
        match answer.order:
            case m.Train() as order:
                return self._turn(order, answer.version)
            case m.Evaluate() as order:
                self._evaluate(order)
                return self._pull()
        raise ProtocolError(f"rank 0 ordered {answer.order}")

    def fail(self, error: BaseException, status: int) -> None:
        """Tell rank 0 that this rank cannot go on, and give it the time to save the weights."""
        if not isinstance(error, PeerLost):  # which rank 0 sees for itself
            self.exchange.say_failed(status)
        self.exchange.wait_out(PATIENCE_S)

    def _pull(self) -> m.Answer:
        answer = self.exchange.pull()
        for training in self.trainings.values():
            training.pulled()
        return answer

    def _turn(self, order: m.Train, version: int) -> m.Answer:
        """Train as ordered and push what came of it; return the answer."""
        exchange, span = self.exchange, self.replica.profile.span
        training = self.trainings[order.push]
        before_s, fetched_s = exchange.compute_s, self.replica.fetch_s
        self._computing_since_s = self._now()
        with span(OTHER):
            trained = training.train(order, version)
            with span("gradient norm", self.replica.gradient.nbytes):
                squares = self.replica.sum_of_squares()
        self._stop_computing()
        fetched_s = self.replica.fetch_s - fetched_s  # on its way out already
        exchange.compute_s -= fetched_s
        exchange.push_s += fetched_s
        took_s = self._ahead_s + exchange.compute_s - before_s
        # A GPU is still at it when a step has been asked for: it is busy for as long as all takes.
        busy_s = self._busy_s if self._on_cpu else took_s - self._slept_s
        pushed_bytes = exchange.pushed_bytes
        work = Work(
            clock=order.clock,
            version=trained.version,
            units=order.steps * self.job.units_per_gradient,
            batch=order.batch,
            steps=order.steps,
            loss=trained.loss,
            sum_of_squares=squares,
            step_s=took_s / order.steps,
            busy_s=busy_s / order.steps,
            cpu_s=self._busy() - self._busy_start_s,
        )
        if isinstance(training, ReducedTraining):
            pushes = exchange.hand_over(work, training.state())
        else:
            pushes = exchange.push(order.push, work)
        pushed_bytes, self._busy_s = exchange.pushed_bytes - pushed_bytes, 0.0
        self._slept_s = 0.0
        if isinstance(training, OverlappedTraining):
            before_s, self._computing_since_s = exchange.compute_s, self._now()
            with span(OTHER):
                training.meanwhile(order, version)
            self._stop_computing()
            self._ahead_s = exchange.compute_s - before_s
        answer = exchange.await_answer(pushes, pushed_bytes)
        training.merged()
        for clock in range(order.clock, order.clock + order.steps):
            self.replica.profile.step()
            if (clock + 1) % self.job.config.run.log_every == 0:
                exchange.report_costs()
        return answer

    def _compute(self, clock: int, batch: int, leaves: bool) -> None:
        """Compute gradient number ``clock``, of batch ``batch``; the replica adds up its loss.

        One that ``leaves`` is fetched next: it may go out part by part, as it is computed.
        """
        run, span = self.job.config.run, self.replica.profile.span
        begin_s = self._busy()
        self.replica.clear()
        worker = self.job.workers.index(self.endpoint.rank)
        rng = np.random.default_rng([run.seed, worker, clock, DROPOUT_STREAM])
        step = Step(1 / run.grad_accum, rng)
        if run.overlap and self._on_cpu:
            # Of a GPU's step nothing is left to call: it is captured, and queued at once.
            step = replace(step, pulse=self.exchange.move_on)
        for micro in range(run.grad_accum):
            self.exchange.heed_signal()
            with span("batches"):
                read = self.job.task.batch(self.share, batch * run.grad_accum + micro)
            if leaves and micro + 1 == run.grad_accum:
                step = replace(step, ready=self.replica.outlet())
            self.replica.model.add_gradient(read, step)
        if run.overlap:
            # What travels by way of the host moves on while a GPU is at it, too.
            while not self.replica.backend.is_idle():
                self.exchange.heed_signal()
                self.exchange.move_on(IDLE_S)
        elif self._handicap.acts:
            self.replica.backend.synchronize()
        busy_s = self._busy() - begin_s
        self._busy_s += busy_s
        # For as long as this worker is slower than it is, on purpose.
        extra_s = self._handicap.extra_s(clock, busy_s)
        self.pause(extra_s)
        self._slept_s += extra_s

    def _stop_computing(self) -> None:
        self.exchange.compute_s += self._now() - self._computing_since_s

    def pause(self, seconds: float) -> None:
        """Sleep, but heed signals, and move on what travels."""
        end_s = self._now() + seconds
        while (left_s := end_s - self._now()) > 0:
            self.exchange.heed_signal()
            if self.job.config.run.overlap:
                self.exchange.move_on(min(left_s, LOOK_UP_S))
            else:
                time.sleep(min(left_s, LOOK_UP_S))

    def _evaluate(self, order: m.Evaluate) -> None:
        """Evaluate one part of the validation split on a snapshot; report it to rank 0."""
        self.exchange.pull_snapshot(order.version)
        total = Measured(units=0, loss=0.0)
        for batch in self.job.task.validation(order.part, order.parts):
            self.exchange.heed_signal()
            total += self.replica.model.evaluate(batch)
        # As plain numbers, whatever array they come from.
        sums = Sums(float(total.loss), int(total.correct), int(total.units))
        self.exchange.report_evaluation(order, sums)

    # Exchanges with other workers

    def _reduce(self) -> None:
        """Make the replica's gradient the sum of all workers' gradients.

        The time counts as waiting. Counted as sent and received are the bytes that a ring moves,
        the least that an allreduce can do with; a slow link makes all sleep for as long as these
        take (``--link-mbps``).
        """
        assert self._reducer is not None
        begin_s = self._now()
        self._stop_computing()
        gradient, workers = self.replica.gradient, len(self.job.workers)
        moved = 2 * (workers - 1) * gradient.nbytes // workers
        with self.replica.profile.span(self._reducer.operation.lower(), gradient.nbytes):
            self._reducer.begin(gradient)
            self.exchange.let_out()
            while not self._reducer.wait(LOOK_UP_S):
                self.exchange.heed_signal()
                self.exchange.let_out()
            if mbps := self.job.config.run.link_mbps:
                self.pause(seconds_on_link(moved, mbps))
        self.exchange.pushed_bytes += moved
        self.exchange.pulled_bytes += moved
        self._computing_since_s = self._now()
        self.exchange.wait_s += self._computing_since_s - begin_s
