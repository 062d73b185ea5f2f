"""What a worker exchanges with the servers, and where its time goes: push, wait, pull, report."""

from __future__ import annotations

import hashlib
import signal
import time
from collections.abc import Callable, Mapping, Sequence

from psdp.errors import ProtocolError
from psdp.job import Job
from psdp.memory import OwnMemory
from psdp.modes import Pushed
from psdp.params import Array
from psdp.protocol import Sums, Work
from psdp.records.timeline import NOBODY_LOOKS, Timeline
from psdp.transport import Endpoint, Sending
from psdp.transport import messages as m
from psdp.transport.headers import MOST_INCLUDED
from psdp.workers.answers import Answers
from psdp.workers.listening import Listening
from psdp.workers.replica import Replica
from psdp.workers.saving import Saving

LOOK_UP_S = 0.5
"""How often a wait looks up, to heed a signal."""


class Exchange:
    """One rank's side of all messages, for its workers.

    Args:
        signalled: returns the name of a signal that asked this rank to end, or None.
        now: a clock in seconds.
        listening: has heard already.
        timeline: takes note of what this rank does when.

    Attributes:
        compute_s: seconds in which this worker computed, for its owner to add to.
        push_s, wait_s, pull_s: seconds of the others, which add up to the rest.
        pushed_bytes, pulled_bytes: of vectors.
        saving: writes what this rank's workers have for themselves, where checkpoints hold that.
    """

    def __init__(
        self,
        job: Job,
        endpoint: Endpoint,
        replica: Replica,
        signalled: Callable[[], str | None] = lambda: None,
        now: Callable[[], float] = time.monotonic,
        listening: Listening | None = None,
        timeline: Timeline = NOBODY_LOOKS,
    ) -> None:
        self.job, self.endpoint, self.replica = job, endpoint, replica
        self.compute_s = self.push_s = self.wait_s = self.pull_s = 0.0
        self.pushed_bytes = self.pulled_bytes = 0
        self.saving: Saving | None = None
        self._memory = OwnMemory()
        self._signalled = signalled
        self._told = False
        self._now, self._timeline = now, timeline
        self._pushed: list[tuple[int, int]] = []
        self.listening = listening or Listening(job, endpoint, replica.weights.nbytes)
        self._answers = Answers(job, endpoint, self.listening)
        self._pushes: list[Sending] = []
        """That have not been answered."""
        self._unprofiled_bytes = 0
        """Of these."""
        endpoint.landing = self._landing

    def begin(self, job: Job) -> None:
        """Begin a term, in which nothing counts that is under way."""
        self.job, self._told = job, False
        self._pushes.clear()
        self._pushed.clear()
        self._answers = Answers(job, self.endpoint, self.listening)
        self._unprofiled_bytes = 0

    def heed_signal(self) -> None:
        """Tell rank 0, once, of a signal that asked this rank to end; it decides who does."""
        if not self._told and (by := self._signalled()) is not None:
            self.endpoint.send(self.job.leader, m.Signalled(signal.Signals[by]))
            self._told = True

    def look_up(self) -> None:
        """Heed a signal, and what rank 0 asks of a rank that computes."""
        self.heed_signal()
        if self.saving is not None:
            self.move_on()

    # Vectors

    def ask(self, workers: Sequence[int]) -> None:
        """Ask for the present weights and for orders for these workers."""
        # Rank 0 passes it on, so that all servers answer alike.
        for start in range(0, len(workers), MOST_INCLUDED):
            some = workers[start : start + MOST_INCLUDED]
            self.endpoint.send(self.job.leader, m.AskWeights(tuple(some)))

    def pull_snapshot(self, version: int) -> None:
        """Get the weights of a version that all servers have a snapshot of.

        Raises:
            PeerLost: a server is gone.
            TermBegins: it was void.
        """
        for server in self.job.servers:
            self.endpoint.send(server, m.AskSnapshot(version))
        self._await_weights()

    def push(self, kind: Pushed, worker: int, work: Work, payloads: Sequence[Array]) -> None:
        """Start sending all that hold a shard their part of what a worker made, which is of this
        kind.

        Raises:
            PeerLost: a server is gone, or has ended the run.
            TermBegins: it was void.
        """
        begin_s = self._now()
        while not self._answers.followed:
            self.heed_signal()
            self._answers.take(self.listening.next(LOOK_UP_S))
        message: m.Message = m.PUSHES[kind](worker, work, self._totals())
        for rank in self.job.holding:
            self._push(rank, message, payloads[self.job.shard_of(rank)])
        self._note_push(begin_s, [(worker, work.clock)])

    def hand_over(self, works: Mapping[int, Work], state: Sequence[Array]) -> None:
        """Start telling rank 0 what all workers have reached by themselves, of each of this rank's:
        the hash and, where the first of all is among them, the weights and the optimizer's vectors
        (P,) themselves."""
        begin_s = self._now()
        if self.job.workers[0] in works:
            for index, vector in enumerate(state):
                self._push(self.job.leader, m.State(index), vector)
        digest = sha256_of(self.replica.weights_on_host())
        for worker, work in works.items():
            self._pushes.append(
                self.endpoint.send(self.job.leader, m.Reached(worker, work, self._totals(), digest))
            )
        self._note_push(begin_s, [(worker, work.clock) for worker, work in works.items()])

    def _note_push(self, begin_s: float, gradients: Sequence[tuple[int, int]]) -> None:
        self._timeline.note("push", begin_s, self._now(), gradients)
        self._pushed += gradients

    def _push(self, server: int, message: m.Message, payload: Array) -> None:
        self._pushes.append(self.endpoint.send(server, message, payload))
        self._unprofiled_bytes += payload.nbytes
        self.pushed_bytes += payload.nbytes

    def await_answer(self) -> m.Answer | None:
        """Wait for the answer to what was pushed or asked; note where the time went. Return rank
        0's, which has orders; None if there will be none.

        Raises:
            PeerLost: a server is gone, or has ended the run.
            TermBegins: it was void.
        """
        self._answers.ordered()
        if not self._pushes:
            return self._await_weights()
        before = self.push_s, self.wait_s, self.pull_s
        answer = self._await_weights()
        after = self.push_s, self.wait_s, self.pull_s
        push_s, wait_s, pull_s = (end - start for end, start in zip(after, before, strict=True))
        self.replica.profile.add("push", push_s, self._unprofiled_bytes)
        self.replica.profile.add("wait", wait_s)
        self.replica.profile.add("pull", pull_s, self.replica.weights.nbytes)
        self._pushes.clear()
        self._unprofiled_bytes = 0
        return answer

    def _await_weights(self) -> m.Answer | None:
        """Wait until all pushes have left, then for every server's shard; return rank 0's.

        Until then what was pushed and the weights belong to the servers: a server on this host
        reads and averages a gradient where it lies.
        """
        pushes = self._pushes
        begin_s, landing_s = self._now(), self.endpoint.landing_s
        while not all(push.done for push in pushes) and not self.listening.term_begins():
            self.heed_signal()
            self.listening.keep(self.endpoint.flush(pushes, timeout_s=LOOK_UP_S))
        pushed_s = self._now()
        while not self._answers.complete:
            self.heed_signal()
            arrival = self.listening.next(LOOK_UP_S)
            if self._answers.ends(arrival):
                return None
            self._answers.take(arrival)
        loading_s = self._now()
        self.replica.load()
        end_s = self._now()
        pull_s = self.endpoint.landing_s - landing_s + end_s - loading_s
        self.push_s += pushed_s - begin_s
        self.pull_s += pull_s
        self.wait_s += max(0.0, end_s - pushed_s - pull_s)
        self.pulled_bytes += self.replica.weights.nbytes
        answer, pushed, note = self._answers.pop(), self._pushed, self._timeline.note
        if pushed:
            note("send", begin_s, pushed_s, pushed)
        note("wait", pushed_s, loading_s, pushed)
        note("pull", loading_s, end_s, pushed, version=answer.version)
        pushed.clear()
        return answer

    def _landing(self, peer: int, message: m.Message) -> Array:
        if not isinstance(message, m.Answer) or peer not in self.job.servers:
            raise ProtocolError(f"rank {peer} sent a payload with {message}")
        span = self.job.shards[self.job.shard_of(peer)]
        return self.replica.weights[span.start : span.stop]

    # While this worker is busy

    def move_on(self, timeout_s: float = 0.0) -> None:
        """Move on what travels, and keep what arrives for later."""
        self.listening.keep([self.endpoint.receive(timeout_s)])

    def let_out(self) -> None:
        """Move on what was sent, where nothing is to arrive.

        Raises:
            PeerLost: a server is gone.
            ProtocolError: something arrived.
        """
        self.listening.expects_nothing(self.endpoint.receive(timeout_s=0))

    # Reports

    def report_steps(
        self, clock: int, steps: int, workers: int, counted: int, loss: float, squares: float
    ) -> None:
        """Tell rank 0 of steps that all workers did together; see :class:`messages.Progress`."""
        told = m.Progress(self._totals(), clock, steps, workers, counted, loss, squares)
        self.endpoint.send(self.job.leader, told)

    def report_evaluation(self, order: m.Evaluate, sums: Sums) -> None:
        """Tell rank 0 what one part of an evaluation came to."""
        digest = sha256_of(self.replica.weights_on_host()) if order.part == 0 else ""
        self.endpoint.send(
            self.job.leader, m.Evaluated(order.worker, order.version, order.part, sums, digest)
        )

    def report_costs(self) -> None:
        """Tell rank 0 where this worker's time went so far, if that is measured."""
        profile = self.replica.profile
        for kind, cost in profile.costs.items():
            message = m.Spent(profile.steps, kind, cost.calls, cost.seconds, cost.flops, cost.bytes)
            self.endpoint.send(self.job.leader, message)

    def say_done(self) -> None:
        """Tell rank 0 that this rank has done what it was told to; where others hold the shards
        too, wait for the end of the run.

        Raises:
            PeerLost: a server is gone.
            TermBegins: there may be more to do.
        """
        said = self.endpoint.send(self.job.leader, m.Done(self._totals()))
        self.listening.keep(self.endpoint.flush([said]))
        while self.job.stands_by:
            self.heed_signal()
            arrival = self.listening.next(LOOK_UP_S)
            if arrival is not None and isinstance(arrival.message, m.Finish):
                return

    def _totals(self) -> m.Totals:
        return m.Totals(
            compute_s=self.compute_s,
            push_s=self.push_s,
            wait_s=self.wait_s,
            pull_s=self.pull_s,
            pushed_bytes=self.pushed_bytes,
            pulled_bytes=self.pulled_bytes,
            memory=self._memory.usage(),
        )


def sha256_of(vector: Array) -> str:
    return hashlib.sha256(vector.data).hexdigest()
