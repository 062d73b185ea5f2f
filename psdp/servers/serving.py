"""A shard at work: what was decided is performed on it, in the order of its machine, and its copies
are kept and sent."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any, Protocol

from psdp.checkpoint import CheckpointStore, Snapshot
from psdp.errors import ProtocolError
from psdp.job import Job
from psdp.protocol import order as o
from psdp.records.profile import UNPROFILED, Spans
from psdp.records.timeline import NOBODY_LOOKS, Timeline
from psdp.servers.giving import Giving
from psdp.servers.means import ByMean, ByTakingOver, Maker, works_of
from psdp.servers.progress import Progress
from psdp.servers.receiving import Receiving
from psdp.servers.shard import Shard
from psdp.transport import Arrival, Endpoint, Lost
from psdp.transport import messages as m

TICK_S = 0.05
"""How often a loop looks up from its messages."""

WRITE_S = 600.0
"""How long the end of a run waits for a checkpoint to be on disk."""


class Owner(Protocol):
    """Who serves: rank 0's leader, or a follower."""

    def on_message(self, peer: int, message: m.Message) -> None:
        """A message of a peer has arrived."""

    def on_lost(self, peer: int, why: str) -> None:
        """A peer is gone."""

    def on_written(self, result: Any) -> None:
        """The writer finished a job."""

    def perform(self, decision: Any) -> None:
        """What was decided is to be done now, in its turn."""

    def updated(self, update: o.Update, norm: float) -> None:
        """The shard is the next version; what it was made of still lies in the slots."""


class Serving:
    """Performs what is decided on one shard.

    Args:
        snapshot: of a resumed run: where to go on from.
        before: of the same shard in the term before this one, to go on from where that is.
        held: copies that are still needed.
        profile: takes note of what updates cost.
        cpu_time: seconds that this process has used its core.

    Attributes:
        owner: is asked whatever this does not know; set before the first message.
        progress: what has gone into the weights.
        giving: what is sent and kept of the shard.
        receiving: what workers push.
        order: the machine that says when what is done.
        known: the latest updates that were decided, all that another rank may lack of them.
    """

    owner: Owner

    def __init__(
        self,
        job: Job,
        endpoint: Endpoint,
        shard: Shard,
        store: CheckpointStore,
        snapshot: Snapshot | None = None,
        *,
        before: Serving | None = None,
        held: Sequence[Snapshot] = (),
        profile: Spans = UNPROFILED,
        timeline: Timeline = NOBODY_LOOKS,
        cpu_time: Callable[[], float] = time.process_time,
    ) -> None:
        self.job = job
        self.endpoint = endpoint
        self.shard = shard
        self.profile = profile
        self.progress: Progress = Progress(job, snapshot) if before is None else before.progress
        if snapshot is not None:
            shard.restore(snapshot)
        if before is not None:
            held = before.giving.snapshots.held()
            shard.begin_term()  # as at a rank that has been handed it
        self._timeline = timeline
        self.giving: Giving = Giving(job, endpoint, shard, self.progress, store, held, timeline)
        number, count = job.shard_of(endpoint.rank), len(job.servers)
        self.order = o.ShardOrder(number, count, self.progress.version)
        # A worker's push is in one of them until all servers have answered it.
        self.known: deque[o.Update] = deque(maxlen=len(job.workers))
        if before is not None:
            self.known = before.known
        self._finished: deque[Any] = deque()
        make = ByMean if job.mode.served else ByTakingOver
        self._maker: Maker = make(job, shard, self.progress, profile)
        self.receiving = Receiving(job, shard, self._maker)
        self._events: deque[o.Event] = deque()
        self._effects: deque[o.Effect] = deque()
        self._going = False
        self._undelivered: Arrival | None = None
        """A message of which nothing was told to the machine yet."""
        self._cpu_time = cpu_time
        self._cpu_start_s = cpu_time()
        endpoint.landing = self.receiving.landing

    @property
    def cpu_s(self) -> float:
        """Seconds of its core that this server has used."""
        return self._cpu_time() - self._cpu_start_s

    @property
    def needed(self) -> int:
        """The oldest version that may still be saved."""
        held = (copy.version for copy in self.giving.snapshots.held())
        return min(held, default=self.progress.version)

    @property
    def idle(self) -> bool:
        """Whether all that was decided is done."""
        return self.order.idle and not self._effects and not self._events

    def turn(self, timeout_s: float = TICK_S) -> bool:
        """Wait a little for one thing to happen; act on it; see what the writer finished. Say
        whether something happened."""
        event = self.endpoint.receive(timeout_s)
        match event:
            case Lost(peer, why):
                self.owner.on_lost(peer, why)
            case Arrival() as arrival:
                self._deliver(arrival)
        self.see_written()
        return event is not None

    def _deliver(self, arrival: Arrival) -> None:
        if arrival.peer in self.job.term.lost:
            return  # what it said last, others may not have heard
        self._undelivered = arrival
        self.owner.on_message(arrival.peer, arrival.message)
        self._undelivered = None

    def see_written(self) -> None:
        """Take what the writer has finished."""
        self._finished += self.giving.writer.poll()
        while self._finished:  # an exception over one leaves the others
            self.owner.on_written(self._finished.popleft())

    # Receiving

    def take(self, peer: int, message: m.Message) -> None:
        """Take a message that every server takes alike.

        Raises:
            ProtocolError: it is none.
        """
        match message:
            case m.AskSnapshot(version):
                self.giving.ask(peer, version)
            case m.Follows(answers) if peer == self.job.standby_of(self.endpoint.rank):
                self.giving.gate.followed(answers)
            case m.PartialNorm(version, squares) if self._serves_another(peer):
                self.happened(o.NormOf(self.job.shard_of(peer), version, squares))
            case _:
                raise ProtocolError(
                    f"rank {peer} sent {message}, which server {self.endpoint.rank} does not take"
                )

    def _serves_another(self, peer: int) -> bool:
        """Say whether a rank holds a shard that is not this one."""
        job = self.job
        return peer in job.holding and job.shard_of(peer) != job.shard_of(self.endpoint.rank)

    def decided(self, update: o.Update) -> None:
        """Make an update after what was decided before."""
        self.known.append(update)
        self.happened(o.Decided(update))

    @property
    def last(self) -> int:
        """The version that the last update leads to that was decided."""
        return self.known[-1].version if self.known else self.progress.version

    def take_push(self, peer: int, message: m.Push) -> bool:
        """Take a push; say whether it counts.

        Raises:
            ProtocolError: it is not expected from that peer.
        """
        slot = self.receiving.take(peer, message)
        if slot is None:
            return False
        self.happened(o.Landed(slot, (message.work.sum_of_squares,)))
        return True

    def void(self, worker: int) -> None:
        """What was pushed last for a worker does not count, if it is here."""
        self.happened(o.Voided(self.job.slot_of(worker)))

    # Performing

    def happened(self, event: o.Event) -> None:
        """Tell the machine; perform what it says, and what comes of that."""
        self._events.append(event)
        self._undelivered = None
        if not self._going:
            self._go_on()

    def _go_on(self) -> None:
        self._going = True
        try:
            while self._effects or self._events:
                if not self._effects:
                    self._effects += self.order.handle(self._events.popleft())
                    continue
                # Left in place while it is performed: who ends the run sees how far it came.
                self._perform(self._effects[0])
                self._effects.popleft()
        finally:
            self._going = False

    def recover(self) -> None:
        """Go on after an exception as far as that is possible: make the update that it came in the
        way of, if nothing of it was made; take the message that it kept from being taken; and leave
        out all else that it came from.

        Raises:
            RuntimeError: the weights were left in the middle of an update.
        """
        self.giving.gate.open()
        if self._effects:
            failed = self._effects[0]
            if not isinstance(failed, o.Average | o.Renew) or self._was_made(failed.update):
                self._effects.popleft()
        with suppress(BaseException):
            if not self._maker.in_pieces():
                self._go_on()
        arrival, self._undelivered = self._undelivered, None
        with suppress(BaseException):
            if arrival is not None:
                self._deliver(arrival)
        if self._maker.in_pieces():
            raise RuntimeError("they were left in the middle of an update")
        # What fails again is left alone: the weights before it are whole.
        self._effects.clear()

    def _was_made(self, update: o.Update) -> bool:
        return self.progress.version == update.version

    def _perform(self, effect: o.Effect) -> None:
        match effect:
            case o.Average(update):
                self.endpoint.wake()  # other holders of shards do so meanwhile
                begin_s = time.monotonic()
                self._events.append(o.Averaged(self._maker.average(update)))
                if len(update.slots) > 1:
                    end_s = time.monotonic()
                    self._timeline.note("average", begin_s, end_s, version=update.version)
            case o.ShareNorm(version, squares):
                own = self.job.shard_of(self.endpoint.rank)
                for rank in self.job.holding:
                    if self.job.shard_of(rank) != own:
                        self.endpoint.send(rank, m.PartialNorm(version, squares))
            case o.Renew(update, squares):
                self._renew(update, squares)
            case o.Forget(slots):
                for slot in slots:
                    del self.receiving.pushes[slot]
            case decision:
                self.owner.perform(decision)

    def _renew(self, update: o.Update, squares: o.Squares) -> None:
        begin_s = time.monotonic()
        norm = self._maker.renew(update, squares, self.receiving.pushes)
        works = works_of(self.job, update.slots, self.receiving.pushes)
        of = ((worker, work.clock) for worker, work in works.items())
        self._timeline.note("update", begin_s, time.monotonic(), of, version=update.version)
        self.progress.advance(update.version, works)
        self._events.append(o.Updated())
        self.profile.step()
        # All servers copy their shards alike, where a checkpoint or an evaluation is due.
        save, hold = self.progress.checkpoint_due, self.progress.evaluation_due
        if save or hold:
            self.giving.keep(hold=hold, save=save)
        self.owner.updated(update, norm)
