"""Who takes part on rank 0: ranks that ask, push, are done or lost, and workers that move from one
to another or leave."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Any

from psdp.errors import PeerLost, PsdpError, ReplayError
from psdp.job import Job
from psdp.protocol import Hosting, Pull, Push
from psdp.protocol import order as o
from psdp.records.reasons import StoppedBy
from psdp.servers.answering import Answering
from psdp.servers.deciding import Deciding
from psdp.servers.ending import Stopped
from psdp.servers.evaluating import Evaluating
from psdp.servers.noting import Noting
from psdp.servers.serving import Serving
from psdp.transport import messages as m


@dataclass(frozen=True)
class Earlier:
    """What terms before the present one have left.

    Attributes:
        left: ranks that take part no more.
        told: of these, those that are accounted for.
        closed: versions whose evaluations were over by then, though copies of them are kept.
        over: nothing is left to do but to tell all that the run is.
    """

    left: Collection[int] = ()
    told: Collection[int] = ()
    closed: Collection[int] = ()
    over: bool = False


class Membership:
    """The ranks that compute, and the workers that they compute for.

    A push counts once all servers have it: whatever a rank that dies has pushed to some of them
    only is void, and another rank computes it again.

    Args:
        noting: takes losses and moves down.
        tell: has all other servers do what this one does.
        decide: has this server do something after what was decided before, and tells the others.

    Attributes:
        left: ranks that take part no more, whatever comes.
        told: of these, those that are accounted for, as all servers know.
    """

    def __init__(
        self,
        job: Job,
        serving: Serving,
        evaluating: Evaluating,
        answering: Answering,
        deciding: Deciding,
        noting: Noting,
        tell: Callable[[m.Message], object],
        decide: Callable[[Any, m.Message], None],
        earlier: Earlier,
    ) -> None:
        self.left, self.told = set(earlier.left), set(earlier.told)
        self._noting = noting
        self._job = job
        self._serving = serving
        self._evaluating = evaluating
        self._answering = answering
        self._deciding = deciding
        self._tell = tell
        self._decide = decide
        self._engaged = {rank for rank in job.worker_ranks if job.hosted(rank)}
        """Ranks that compute, or have computed, for some worker."""
        self._gone: set[int] = set()
        """Ranks that are done, or take part no more."""
        self._leaving: set[int] = set()
        """Ranks that are to have no workers any more."""
        self._landed: defaultdict[int, set[int]] = defaultdict(set)
        """Of pushes that do not count yet, by worker, the servers that have them."""

    @property
    def _hosting(self) -> Hosting:
        return self._serving.receiving.hosting

    @property
    def over(self) -> bool:
        """Whether all ranks that computed are done or lost."""
        return self._engaged <= self._gone

    @property
    def spares(self) -> list[int]:
        """The ranks that wait to compute."""
        return sorted({*self._job.worker_ranks} - self._engaged - self._gone)

    @property
    def waiting(self) -> list[int]:
        """The ranks that wait for the end of the run."""
        if self._job.stands_by:
            return sorted({*self._job.worker_ranks} - self.left)
        return self.spares

    # What ranks do

    def asked(self, rank: int, workers: Sequence[int]) -> None:
        """A rank asks for orders for some of its workers."""
        for worker in workers:
            if self._serving.receiving.counts(rank, worker):
                self._answering.asked(worker)
                self._deciding.happened(Pull(worker))
            else:
                self._answering.fence(rank, worker)
        self._answering.dismiss_all()

    def pushed(self, rank: int, message: m.Push) -> None:
        """A rank has pushed for one of its workers."""
        if self._serving.take_push(rank, message):
            self.landed(self._job.leader, message.worker, rank)
        else:
            self._answering.fence(rank, message.worker)

    def landed(self, server: int, worker: int, rank: int) -> None:
        """What a rank has pushed for a worker is with one of the servers."""
        if self._hosting.host(worker) != rank:
            return
        landed = self._landed[worker]
        landed.add(server)
        if len(landed) == len(self._job.holding):
            del self._landed[worker]
            slot = self._job.slot_of(worker)
            work = self._serving.receiving.pushes[slot].work
            self._answering.asked(worker)
            self._deciding.happened(Push(worker, slot, work))
            self._answering.dismiss_all()

    def done(self, rank: int) -> None:
        """A rank has done what it was told to."""
        self._gone.add(rank)
        if rank in self._leaving:
            self._let_end(rank)
        self._leave_with(rank)

    def lost(self, rank: int, why: str) -> None:
        """A rank that works is gone: others compute for its workers.

        Raises:
            Stopped: the others cannot go on without it, there are none, or too many have failed.
        """
        if rank in self._gone:
            self.left.add(rank)
            return
        self._gone.add(rank)
        self._leave(rank)
        self._take_down(rank, why)
        last = self._evaluating.last
        if last is not None and not self._evaluating.is_open(last):
            self._leave_with(rank)
            return
        self._bequeath(rank, why)

    def do_without(self) -> None:
        """Others compute for the workers of ranks that are lost as a term begins.

        Raises:
            Stopped: there are none, or too many have failed.
        """
        why, ours = "found as another rank was", {*self._job.worker_ranks}
        lost = self.left | (self._serving.endpoint.lost & ours)
        found = (lost & ours) - self.told
        self._gone |= lost
        for rank in sorted(lost):
            self._leave(rank)
            if rank in found:
                self._take_down(rank, why)
            self._bequeath(rank, why)

    def _take_down(self, rank: int, why: str) -> None:
        # A rank that had no work yet has not failed at it, and there are only so many.
        self._noting.failed(rank, why, spare=rank not in self._engaged)
        self._check_bearable(rank, why)
        if (failures := self._noting.failures) > self._job.max_failures:
            text = f"{failures} ranks have failed, --max-failures {self._job.max_failures} allows"
            error = PeerLost(f"{text} no more; the last was rank {rank} ({why})")
            raise Stopped(StoppedBy.FAILURES, error)

    def _bequeath(self, rank: int, why: str) -> None:
        heirs = self._heirs(rank)
        if self._hosting.hosted(rank) and not heirs:
            error = PeerLost(f"the last worker, rank {rank}, is gone ({why})")
            raise Stopped(StoppedBy.WORKERS_LOST, error)
        for worker, heir in heirs.items():
            self.move(worker, heir)

    def _leave(self, rank: int) -> None:
        self.left.add(rank)
        self.told.add(rank)
        if self._job.stands_by:
            self._tell(m.Left(rank))

    def _let_end(self, rank: int) -> None:
        """Let a rank end that waits."""
        if self._job.stands_by:
            self._leave(rank)
            self._serving.endpoint.send(rank, m.Finish())

    def has(self, rank: int) -> bool:
        """Say whether a rank takes part, or waits to."""
        return rank in self._job.worker_ranks and rank not in self._gone

    def let_go(self, rank: int) -> bool:
        """Have others compute for the workers of a rank, which then ends; say whether there are
        any others."""
        if rank in self.spares:
            self._gone.add(rank)
            self._leave(rank)
            self._serving.endpoint.send(rank, m.Finish())
            return True
        self._leaving.add(rank)
        heirs = self._heirs(rank)
        for worker, heir in heirs.items():
            self.move(worker, heir)
        return bool(heirs) or not self._hosting.hosted(rank)

    def _heirs(self, rank: int) -> dict[int, int]:
        """Return who is to compute for a rank's workers: spare ranks only where no others can."""
        gone = self._gone | self._leaving
        working = self._hosting.heirs(rank, gone | {*self.spares})
        return working or self._hosting.heirs(rank, gone)

    def _check_bearable(self, rank: int, why: str) -> None:
        gone = f"rank {rank} is gone ({why})"
        error: PsdpError | None = None
        if not self._job.mode.survives_loss and not self._deciding.policy.drained:
            error = PeerLost(f"{gone}, and --mode {self._job.mode} needs all")
        elif self._deciding.replays and self._hosting.hosted(rank):
            error = ReplayError(f"{gone}, which it was not then")
        if error is not None:
            raise Stopped(StoppedBy.WORKER_LOST, error)

    # What becomes of workers

    def move(self, worker: int, rank: int) -> None:
        """Let another rank compute for a worker; what it had in hand is begun again there."""
        before = self._hosting.host(worker)
        assert before is not None
        begun_again = self._answering.has_in_hand(before, worker)
        waits = (
            self._job.leader in self._landed.pop(worker, ()) or worker in self._answering.unanswered
        )
        self._tell(m.Moved(worker, rank))
        self._serving.receiving.move(worker, rank)
        self._engaged.add(rank)
        if begun_again:
            self._tell(m.Void(worker))
            self._serving.void(worker)
        self._answering.moved(worker, before, fence=waits or before in self._gone)
        self._noting.moved(worker, before, rank)
        self._deciding.moved(worker, rank)
        self._answering.dismiss_all()

    def depart(self, worker: int) -> None:
        """Do without a worker from now on, as in the record of a run that is replayed."""
        waits = worker in self._answering.unanswered
        self._leave_out(worker)
        if waits:
            self.send_home(worker)

    def send_home(self, worker: int) -> None:
        """Let a worker go that the run does without."""
        slot = self._job.slot_of(worker)
        if slot in self._serving.receiving.pushes:
            self._decide(o.Discard(slot), o.Discard(slot))
        self._answering.send_home(worker)

    def _leave_with(self, rank: int) -> None:
        for worker in self._hosting.hosted(rank):
            self._deciding.departed.discard(worker)
            if worker in self._answering.live:
                self._leave_out(worker)

    def _leave_out(self, worker: int) -> None:
        self._answering.left(worker)
        self._deciding.left(worker)
        self._answering.dismiss_all()
