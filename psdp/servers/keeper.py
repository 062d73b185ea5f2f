"""What rank 0 does where workers reduce gradients among themselves: it keeps what they reach."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from typing import Any

from psdp.errors import NumericsError, PeerLost, ProtocolError
from psdp.job import Job
from psdp.params import Array
from psdp.protocol import Apply
from psdp.servers.leader import CURE, Leader
from psdp.transport import Room
from psdp.transport import messages as m


class Keeper(Leader):
    """The server of a job without a server in the way of gradients.

    Workers tell of their steps without waiting for an answer, and so the records are those of
    ``sync``. Where an evaluation or a checkpoint is due, one of them hands over its weights and
    its optimizer's vectors, all say what their weights are, and this rank goes on as if it had made
    these updates itself.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        # What lands here becomes the shard in one go, so that a run that ends can save the shard.
        self._reached = self.shard.snapshot(self.version, self.tokens, self.clocks)
        self._progress: defaultdict[int, dict[int, m.Progress]] = defaultdict(dict)
        self._norm = 0.0

    def landing(self, peer: int, message: m.Message) -> Array | Room:
        match message:
            case m.State(index) if peer == self.job.workers[0]:
                vectors = [self._reached.weights, *self._reached.optimizer.values()]
                if 0 <= index < len(vectors):
                    return vectors[index]
            case m.Gradient():
                return self._reached.weights[:0]
        return super().landing(peer, message)

    def on_message(self, peer: int, message: m.Message) -> None:
        match message:
            case m.Progress():
                self._on_progress(peer, message)
            case m.State():
                pass  # it has landed, and counts when all workers are there
            case _:
                super().on_message(peer, message)

    def _on_progress(self, peer: int, message: m.Progress) -> None:
        self.recorder.totals(peer, message)
        done = message.clock + message.steps
        if not math.isfinite(message.sum_of_squares):
            kept = self.end_early("non-finite gradient")
            raise NumericsError(
                f"the sum of the workers' gradients holds NaN or Inf at step {done}; {kept}. {CURE}"
            )
        told = self._progress[message.clock]
        told[peer] = message
        if len(told) == len(self.job.workers):
            del self._progress[message.clock]
            self._norm = math.sqrt(message.sum_of_squares)
            self._note_steps(done, message.steps, [told[rank].loss for rank in sorted(told)])

    def _note_steps(self, done: int, steps: int, losses: Sequence[float]) -> None:
        """Let the records know of ``steps`` more steps, which end with number ``done``."""
        count = len(losses)
        tokens = steps * self.job.tokens_per_step
        lags = (0,) * (steps * count)
        steps_taken = Apply(tuple(range(count)), (1 / count,) * count, tokens, lags, done)
        self.recorder.updated(
            steps_taken,
            sum(losses) / count,
            self._norm,
            self.training_schedule.lr(done - 1),
            done * self.job.tokens_per_step,
            dict.fromkeys(self.job.workers, done),
        )

    def note_update(self, norm: float) -> None:
        """Workers have told of it step by step."""

    def begin_update(self, asked: m.Update) -> None:
        """Take over what all workers have reached."""
        self._check_alike(asked.version)
        self._reached.updates = asked.version
        with self.profile.span("copy", 2 * self.shard.update_bytes):
            self.shard.restore(self._reached)
        self.reach(asked.version, m.unpack_slots(asked.slots), self._norm)

    def _check_alike(self, version: int) -> None:
        digests = {gradient.weights_sha256 for gradient in self.gradients.values()}
        if len(digests) > 1:
            kept = self.end_early("replicas differ")
            raise ProtocolError(
                f"the workers' weights differ after step {version}, though all make the same "
                f"updates; {kept}. Either MPI's Allreduce gives other sums on some ranks, or some "
                "hosts round otherwise: start all workers on the same kind of processor, with the "
                "same --kernels"
            )

    def on_lost(self, peer: int, why: str) -> None:
        if self.policy.drained:
            super().on_lost(peer, why)
            return
        kept = self.end_early("worker lost")
        raise PeerLost(f"rank {peer} is gone ({why}), and --mode allreduce needs all; {kept}")


def leader_of(job: Job) -> type[Leader]:
    """Return what rank 0 of a job is."""
    return Keeper if job.reduces else Leader
