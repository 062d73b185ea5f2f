"""How a shard comes to its next version: by the mean of what was pushed, or by taking over what the
workers have reached by themselves."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

from psdp.backend.squares import norm_of
from psdp.errors import ProtocolError
from psdp.job import Job
from psdp.modes import Pushed
from psdp.params import Array
from psdp.protocol import Work
from psdp.protocol.order import Squares, Update
from psdp.records.profile import UPDATE, Spans
from psdp.records.reasons import StoppedBy
from psdp.servers.ending import Stopped
from psdp.servers.progress import Progress
from psdp.servers.shard import Shard
from psdp.transport import Room
from psdp.transport import messages as m

Pushes = Mapping[int, m.Push]
"""What lies in the slots."""


class Maker(Protocol):
    """Makes the next version of a shard."""

    def landing(self, slot: int, message: m.Message) -> Array | Room | None:
        """Return where a worker's payload lands; None if none is expected with such a message."""

    def average(self, update: Update) -> Squares:
        """Make the mean; return the squares of this server's part."""

    def renew(self, update: Update, squares: Squares, pushes: Pushes) -> float:
        """Make the update; return the norm of the whole mean, whose squares these are."""

    def in_pieces(self) -> bool:
        """Say whether an exception has left the weights in the middle of an update."""


class ByMean(Maker):
    """Averages what lies in the slots, and hands the mean to the rule of its kind."""

    def __init__(self, job: Job, shard: Shard, progress: Progress, profile: Spans) -> None:
        self._job = job
        self.shard = shard
        self._progress = progress
        self._profile = profile
        self._compensates = job.config.optim.lag_compensation == "dc-asgd"
        self._mean: Array | None = None
        self._version: int | None = None
        self._done: set[str] = set()
        """What has been done of the update to this version: it writes in place, and must not be
        done twice if an exception comes in the way of what follows."""
        self._updates = shard.updates

    def in_pieces(self) -> bool:
        return self.shard.updates != self._updates

    def landing(self, slot: int, message: m.Message) -> Array | Room | None:
        return self.shard.landing(slot) if type(message) in m.PUSHES.values() else None

    def average(self, update: Update) -> Squares:
        shard, slots = self.shard, update.slots
        if update.version != self._version:
            self._version = update.version
            self._done.clear()
        if "mean" not in self._done:
            with self._profile.span("average", shard.average_bytes(slots)):
                self._mean = shard.average(slots, update.weights)
            self._done.add("mean")
        if len(slots) == 1:
            return ()
        mean = self._mean
        assert mean is not None
        with self._profile.span("gradient norm", mean.nbytes):
            return shard.squares(mean)

    def renew(self, update: Update, squares: Squares, pushes: Pushes) -> float:
        shard, mean, norm = self.shard, self._mean, norm_of(squares)
        assert mean is not None
        kind = kind_of(pushes[update.slots[0]])
        steps = self._progress.units / self._job.units_per_step
        lr = update.rate * shard.rules.lr(kind, steps)
        if self._compensates and "compensation" not in self._done:
            shard.compensate(update.slots[0], mean)
            self._done.add("compensation")
        if UPDATE not in self._done:
            units = sum(pushes[slot].work.units for slot in update.slots)
            with self._profile.span(UPDATE, shard.update_bytes):
                shard.update(kind, mean, norm, lr)
                shard.add_to_average(steps, units / self._job.units_per_step)
            self._updates = shard.updates
            self._done.add(UPDATE)
        return norm


class ByTakingOver(Maker):
    """Takes over the weights and the optimizer that all workers have reached by themselves; the
    first of them hands them over, and all say the hash of theirs."""

    def __init__(self, job: Job, shard: Shard, progress: Progress, profile: Spans) -> None:
        self._shard = shard
        self._profile = profile
        self._restoring = False
        # What lands here becomes the shard in one go, so that a run that ends can save the shard.
        self._reached = shard.snapshot(progress.version, progress.units, progress.clocks)

    def in_pieces(self) -> bool:
        return self._restoring

    def landing(self, slot: int, message: m.Message) -> Array | None:
        if isinstance(message, m.State) and slot == 0:
            vectors = self._reached.vectors
            if 0 <= message.index < len(vectors):
                return vectors[message.index]
        return None

    def average(self, update: Update) -> Squares:
        return ()

    def renew(self, update: Update, squares: Squares, pushes: Pushes) -> float:
        reached = [pushes[slot] for slot in update.slots]
        digests = {push.weights_sha256 for push in reached if isinstance(push, m.Reached)}
        if len(digests) > 1:
            raise Stopped(
                StoppedBy.REPLICAS_DIFFER,
                ProtocolError(
                    f"the workers' weights differ after step {update.version}, though all make the "
                    "same updates. Either MPI's Allreduce gives other sums on some ranks, or some "
                    "hosts round otherwise: start all workers on the same kind of processor, with "
                    "the same --kernels"
                ),
            )
        self._reached.updates = update.version
        with self._profile.span("copy", 2 * self._shard.update_bytes):
            self._restoring = True
            self._shard.restore(self._reached)
            self._restoring = False
        return 0.0


def kind_of(push: m.Push) -> Pushed:
    """Return what a push is."""
    return next((kind for kind, message in m.PUSHES.items() if type(push) is message))


def works_of(job: Job, slots: Sequence[int], pushes: Pushes) -> dict[int, Work]:
    """Return what the workers of these slots say of their pushes, in the order of the slots."""
    return {job.workers[slot]: pushes[slot].work for slot in slots}
