"""The loop of a rank that computes: pull, gradient, push, and its part of each evaluation."""

from __future__ import annotations

import hashlib
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from psdp.costs import OTHER
from psdp.data.batches import Batches, Validation
from psdp.errors import PeerLost, ProtocolError
from psdp.handicap import Handicap, parse_jitter, parse_stragglers
from psdp.job import Job
from psdp.loops.reduced import ReducedTraining
from psdp.loops.training import OverlappedTraining, Trained, Training, training
from psdp.params import Array
from psdp.replica import Replica
from psdp.shard import Snapshot
from psdp.transport import Arrival, Endpoint, Lost, Sending
from psdp.transport import messages as m
from psdp.transport.link import seconds_on_link
from psdp.transport.reducer import Reducer

DROPOUT_STREAM = 0x64726F70
"""Tells dropout's random numbers from others of the same seed."""


class Interrupted(Exception):
    """A signal asked this rank to end."""


LOOK_UP_S = 0.5
"""How often a wait looks up, to heed a signal."""

GOODBYE_S = 1.0
"""How long a rank that fails tries to tell rank 0 so."""


class Worker:
    """Computes what rank 0 orders until it says stop.

    Args:
        batches: this worker's training data.
        validation: None without a validation split.
        reducer: adds up the workers' gradients, with ``--mode allreduce``.
        snapshot: to go on from, where this worker's optimizer is in it.
        signalled: returns the name of a signal that asked this rank to end, or None.
    """

    def __init__(
        self,
        job: Job,
        endpoint: Endpoint,
        replica: Replica,
        batches: Batches,
        validation: Validation | None,
        *,
        reducer: Reducer | None = None,
        snapshot: Snapshot | None = None,
        signalled: Callable[[], str | None] = lambda: None,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self.job = job
        self.endpoint = endpoint
        self.replica = replica
        self._batches = batches
        self._validation = validation
        self._signalled = signalled
        self._now = now
        self._compute_s = 0.0
        self._ahead_s = 0.0
        """Of these, on what is pushed next."""
        self._events: deque[Arrival | Lost] = deque()
        self._push_s = 0.0
        self._wait_s = 0.0
        self._pull_s = 0.0
        self._pushed_bytes = 0
        self._pulled_bytes = 0
        self._busy_s = 0.0
        """Processor time of the steps that are pushed next."""
        self._handicap = Handicap(
            endpoint.rank,
            job.workers.index(endpoint.rank),
            job.config.run.seed,
            stragglers=parse_stragglers(job.config.run.straggler),
            jitter=parse_jitter(job.config.run.jitter),
        )
        self._reducer = reducer
        self._training: Training
        if reducer is None:
            self._training = training(job, replica, self._compute)
        else:
            self._training = ReducedTraining(
                job, replica, self._compute, self._reduce, self._report, snapshot
            )
        if job.config.run.overlap:
            replica.model.pulse = self._look_after_messages
        self._computing_since_s = 0.0
        # Where workers share cores, the wall clock would count the steps of others.
        self._busy = time.thread_time if replica.backend.name == "cpu" else now
        self._busy_start_s = self._busy()
        endpoint.landing = self._landing

    def run(self) -> None:
        """Do what rank 0 orders until it says stop.

        Raises:
            PeerLost: a server is gone.
            Interrupted: a signal asked this rank to end.
        """
        order = self._pull_current()
        while order.order != m.STOP:
            if order.order == m.EVALUATE:
                self._evaluate(order)
                order = self._pull_current()
            else:
                order = self._turn(order)
        self._report_costs()
        self.say_goodbye(m.DONE)

    def _pull_current(self) -> m.Weights:
        order = self._pull(m.CURRENT)
        self._training.pulled()
        return order

    def _turn(self, order: m.Weights) -> m.Weights:
        """Train as ordered and push what came of it; return the answer."""
        before_s, span = self._compute_s, self.replica.profile.span
        fetched_s = self.replica.fetch_s
        self._computing_since_s = self._now()
        with span(OTHER):
            trained = self._training.train(order)
            with span("gradient norm", self.replica.gradient.nbytes):
                squares = self.replica.backend.sum_of_squares(self.replica.own_pushed)
        self._stop_computing()
        fetched_s = self.replica.fetch_s - fetched_s  # on its way out already
        self._compute_s -= fetched_s
        self._push_s += fetched_s
        step_s = (self._ahead_s + self._compute_s - before_s) / order.steps
        pushed_bytes = self._pushed_bytes
        pushes = self._push(order, trained, squares, step_s)
        pushed_bytes, self._busy_s = self._pushed_bytes - pushed_bytes, 0.0
        if isinstance(self._training, OverlappedTraining):
            before_s, self._computing_since_s = self._compute_s, self._now()
            with span(OTHER):
                self._training.meanwhile(order)
            self._stop_computing()
            self._ahead_s = self._compute_s - before_s
        answer = self._await_answer(pushes, pushed_bytes)
        self._training.merged()
        for clock in range(order.clock, order.clock + order.steps):
            self.replica.profile.step()
            if (clock + 1) % self.job.config.run.log_every == 0:
                self._report_costs()
        return answer

    def _compute(self, clock: int, batch: int, leaves: bool) -> float:
        """Compute gradient number ``clock``, of batch ``batch``; return its loss.

        One that ``leaves`` is fetched next: it may go out part by part, as it is computed.
        """
        run, span = self.job.config.run, self.replica.profile.span
        begin_s = self._busy()
        self.replica.clear()
        worker = self.job.workers.index(self.endpoint.rank)
        rng = np.random.default_rng([run.seed, worker, clock, DROPOUT_STREAM])
        model = self.replica.model
        for micro in range(run.grad_accum):
            self._heed_signal()
            with span("batches"):
                x, y = self._batches.batch(batch, micro)
            last = micro + 1 == run.grad_accum
            ready = self.replica.outlet() if leaves and last else None
            model.forward_backward(x, y, 1 / run.grad_accum, rng, ready)
        loss = model.total_loss()
        busy_s = self._busy() - begin_s
        self._busy_s += busy_s
        # For as long as this worker is slower than it is, on purpose.
        self._sleep(self._handicap.extra_s(clock, busy_s))
        return loss

    def _stop_computing(self) -> None:
        self._compute_s += self._now() - self._computing_since_s

    def _sleep(self, seconds: float) -> None:
        end_s = self._now() + seconds
        while (left_s := end_s - self._now()) > 0:
            self._heed_signal()
            if self.job.config.run.overlap:
                self._look_after_messages(min(left_s, LOOK_UP_S))
            else:
                time.sleep(min(left_s, LOOK_UP_S))

    def _look_after_messages(self, timeout_s: float = 0.0) -> None:
        """Move on what travels while this worker computes."""
        event = self.endpoint.receive(timeout_s)
        if event is not None:
            self._events.append(event)

    def _evaluate(self, order: m.Weights) -> None:
        """Evaluate one part of the validation split on a snapshot; report it to rank 0."""
        self._pull(order.snapshot)
        loss, correct, tokens = 0.0, 0, 0
        if self._validation is not None:
            part = self._validation.parts(order.parts)[order.part]
            for x, y, counted in self._validation.batches(part):
                self._heed_signal()
                losses, right = self.replica.model.evaluate(x, y)
                loss += float(losses[counted].sum(dtype=np.float64))
                correct += int(right[counted].sum())
                tokens += int(counted.sum())
        digest = sha256_of(self.replica.weights) if order.part == 0 else ""
        self.endpoint.send(
            0, m.Evaluated(order.snapshot, order.part, loss, correct, tokens, digest)
        )

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
        with self.replica.profile.span("allreduce", gradient.nbytes):
            self._reducer.begin(gradient)
            self._look_up()
            while not self._reducer.wait(LOOK_UP_S):
                self._heed_signal()
                self._look_up()
            if mbps := self.job.config.run.link_mbps:
                self._sleep(seconds_on_link(moved, mbps))
        self._pushed_bytes += moved
        self._pulled_bytes += moved
        self._computing_since_s = self._now()
        self._wait_s += self._computing_since_s - begin_s

    def _look_up(self) -> None:
        """Let what was sent out; nothing is expected while workers are among themselves."""
        event = self.endpoint.receive(timeout_s=0)
        if event is not None:
            self._unexpected(event)

    # Exchanges with the servers

    def _report(self, clock: int, steps: int, loss: float, squares: float) -> None:
        message = m.Progress(
            **self._totals(), clock=clock, steps=steps, loss=loss, sum_of_squares=squares
        )
        self.endpoint.send(0, message)

    def _totals(self) -> dict[str, Any]:
        """Return the fields of :class:`messages.Totals`."""
        return {
            "compute_s": self._compute_s,
            "push_s": self._push_s,
            "wait_s": self._wait_s,
            "pull_s": self._pull_s,
            "pushed_bytes": self._pushed_bytes,
            "pulled_bytes": self._pulled_bytes,
        }

    def _hand_over(self, state: Sequence[Array]) -> list[Sending]:
        """Send rank 0 the state that all workers share, if this is the worker to do so."""
        if self.endpoint.rank != self.job.workers[0]:
            return []
        self._pushed_bytes += sum(vector.nbytes for vector in state)
        return [self.endpoint.send(0, m.State(i), vector) for i, vector in enumerate(state)]

    def _push(
        self, order: m.Weights, trained: Trained, squares: float, step_s: float
    ) -> list[Sending]:
        """Start sending every server its part of what was trained."""
        state = self._training.state()
        pushed = self.replica.gradient[:0] if state else self.replica.gradient
        sendings = self._hand_over(state)
        for server, place in zip(self.job.servers, self.job.shards, strict=True):
            message = m.Gradient(
                clock=order.clock,
                steps=order.steps,
                batch=order.batch,
                version=trained.version,
                tokens=order.steps * self.job.tokens_per_gradient,
                loss=trained.loss,
                sum_of_squares=squares,
                step_s=step_s,
                busy_s=self._busy_s / order.steps,
                cpu_s=self._busy() - self._busy_start_s,
                weights_sha256=sha256_of(self.replica.weights) if state else "",
                **self._totals(),
            )
            shard = pushed[place.start : place.stop]
            sendings.append(self.endpoint.send(server, message, shard))
            self._pushed_bytes += shard.nbytes
        return sendings

    def _await_answer(self, pushes: Sequence[Sending], pushed_bytes: int) -> m.Weights:
        """Wait for the answer to these pushes; note where the time went."""
        before = self._push_s, self._wait_s, self._pull_s
        answer = self._await_weights(pushes)
        after = self._push_s, self._wait_s, self._pull_s
        push_s, wait_s, pull_s = (end - start for end, start in zip(after, before, strict=True))
        self.replica.profile.add("push", push_s, pushed_bytes)
        self.replica.profile.add("wait", wait_s)
        self.replica.profile.add("pull", pull_s, self.replica.weights.nbytes)
        return answer

    def _report_costs(self) -> None:
        """Tell rank 0 where this worker's time went so far, if that is measured."""
        profile = self.replica.profile
        for kind, cost in profile.costs.items():
            message = m.Spent(profile.steps, kind, cost.calls, cost.seconds, cost.flops, cost.bytes)
            self.endpoint.send(0, message)

    def _pull(self, snapshot: int) -> m.Weights:
        # Rank 0 passes a pull of the current weights on, so that all servers answer it alike.
        for server in self.job.servers[:1] if snapshot == m.CURRENT else self.job.servers:
            self.endpoint.send(server, m.PullRequest(snapshot))
        return self._await_weights()

    def _await_weights(self, pushes: Sequence[Sending] = ()) -> m.Weights:
        """Wait until these pushes have left, then for every server's shard; return rank 0's order.

        Until then the gradient and the weights belong to the servers: a server on this host reads
        and averages the gradient where it lies.
        """
        begin_s, landing_s = self._now(), self.endpoint.landing_s
        while not all(push.done for push in pushes):
            self._heed_signal()
            self._events += self.endpoint.flush(pushes, timeout_s=LOOK_UP_S)
        pushed_s = self._now()
        answers: dict[int, m.Weights] = {}
        while len(answers) < len(self.job.servers):
            self._heed_signal()
            match self._events.popleft() if self._events else self.endpoint.receive(LOOK_UP_S):
                case Arrival(peer, m.Weights() as answer):
                    answers[peer] = answer
                case None:
                    pass
                case event:
                    self._unexpected(event)
        loading_s = self._now()
        self.replica.load()
        end_s = self._now()
        pull_s = self.endpoint.landing_s - landing_s + end_s - loading_s
        self._push_s += pushed_s - begin_s
        self._pull_s += pull_s
        self._wait_s += max(0.0, end_s - pushed_s - pull_s)
        self._pulled_bytes += self.replica.weights.nbytes
        return answers[0]

    def say_goodbye(self, why: str, status: int = 0) -> None:
        """Tell rank 0 that this worker computes no more; see :class:`messages.Goodbye`."""
        sending = self.endpoint.send(0, m.Goodbye(**self._totals(), why=why, status=status))
        if why == m.DONE:
            self.endpoint.flush([sending])
            return
        # Other messages may be under way, and rank 0 gone: try for a while, then go.
        deadline = self._now() + GOODBYE_S
        while not sending.done and self._now() < deadline:
            self.endpoint.receive(timeout_s=0.01)

    def _landing(self, peer: int, message: m.Message) -> Array:
        if not isinstance(message, m.Weights) or peer not in self.job.servers:
            raise ProtocolError(f"rank {peer} sent a payload with {message}")
        place = self.job.shards[peer]
        return self.replica.weights[place.start : place.stop]

    def _unexpected(self, event: Arrival | Lost) -> None:
        match event:
            case Lost(peer, why):
                raise PeerLost(f"server rank {peer} is gone ({why})")
            case Arrival(peer, message):
                raise ProtocolError(f"server rank {peer} sent {message} out of turn")

    def _heed_signal(self) -> None:
        if self._signalled() is not None:
            raise Interrupted


def sha256_of(vector: Array) -> str:
    return hashlib.sha256(vector.data).hexdigest()
