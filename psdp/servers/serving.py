"""A shard at work: what was decided is performed on it, in the order of its machine, and its copies
are kept and sent."""

from __future__ import annotations

import time
from collections import defaultdict, deque
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Any, Protocol

from psdp.checkpoint import BackgroundWriter, CheckpointStore, Snapshot
from psdp.errors import ProtocolError
from psdp.job import Job
from psdp.protocol import order as o
from psdp.records.profile import UNPROFILED, Spans
from psdp.servers.means import ByMean, ByTakingOver, Maker, works_of
from psdp.servers.progress import Progress
from psdp.servers.receiving import Receiving
from psdp.servers.saving import Saving
from psdp.servers.shard import Shard
from psdp.servers.snapshots import Snapshots, checkpoint_of
from psdp.transport import Arrival, Endpoint, Lost
from psdp.transport import messages as m

TICK_S = 0.05
"""How often a loop looks up from its messages."""

WRITE_S = 600.0
"""How long the end of a run waits for a checkpoint to be on disk."""

WRITES_AHEAD = 4
"""Writes that may wait for the disk before a further one makes the server wait."""


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
        profile: takes note of what updates cost.
        cpu_time: seconds that this process has used its core.

    Attributes:
        owner: is asked whatever this does not know; set before the first message.
        progress: what has gone into the weights.
        receiving: what workers push.
        order: the machine that says when what is done.
        before_writing: called with each snapshot that is to be written.
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
        profile: Spans = UNPROFILED,
        cpu_time: Callable[[], float] = time.process_time,
    ) -> None:
        self.job = job
        self.endpoint = endpoint
        self.shard = shard
        self.profile = profile
        self.progress = Progress(job, snapshot)
        if snapshot is not None:
            shard.restore(snapshot)
        self.writer: BackgroundWriter[Any] = BackgroundWriter()
        self.snapshots = Snapshots(self._take, self._write, shard.recycle)
        number, count = job.shard_of(endpoint.rank), len(job.servers)
        self.order = o.ShardOrder(number, count)
        self.before_writing: Callable[[Snapshot], None] = lambda snapshot: None
        self._finished: deque[Any] = deque()
        self._saving = Saving(store, number, count)
        make = ByMean if job.mode.served else ByTakingOver
        self._maker: Maker = make(job, shard, self.progress, profile)
        self.receiving = Receiving(job, shard, self._maker)
        self._remembers = job.config.optim.lag_compensation == "dc-asgd"
        self._events: deque[o.Event] = deque()
        self._effects: deque[o.Effect] = deque()
        self._going = False
        self._undelivered: Arrival | None = None
        """A message of which nothing was told to the machine yet."""
        self._asked: defaultdict[int, list[int]] = defaultdict(list)
        self._cpu_time = cpu_time
        self._cpu_start_s = cpu_time()
        endpoint.landing = self.receiving.landing

    @property
    def cpu_s(self) -> float:
        """Seconds of its core that this server has used."""
        return self._cpu_time() - self._cpu_start_s

    @property
    def idle(self) -> bool:
        """Whether all that was decided is done."""
        return self.order.idle and not self._effects and not self._events

    def turn(self, timeout_s: float = TICK_S) -> None:
        """Wait a little for one thing to happen; act on it; see what the writer finished."""
        match self.endpoint.receive(timeout_s):
            case Lost(peer, why):
                self.owner.on_lost(peer, why)
            case Arrival() as arrival:
                self._deliver(arrival)
        self.see_written()

    def _deliver(self, arrival: Arrival) -> None:
        self._undelivered = arrival
        self.owner.on_message(arrival.peer, arrival.message)
        self._undelivered = None

    def see_written(self) -> None:
        """Take what the writer has finished."""
        self._finished += self.writer.poll()
        while self._finished:  # an exception over one leaves the others
            self.owner.on_written(self._finished.popleft())

    # Receiving

    def take(self, peer: int, message: m.Message) -> None:
        """Take a message that every server takes alike.

        Raises:
            ProtocolError: it is none.
        """
        match message:
            case m.AskSnapshot(version) if self.snapshots.is_gone(version):
                # Others do this rank's part by now: what comes of it does not count.
                self.send_weights(peer, (), ())
            case m.AskSnapshot(version):
                self._asked[version].append(peer)
                self._send_snapshots()
            case m.PartialNorm(version, squares) if peer in self.job.holding:
                self.happened(o.NormOf(self.job.shard_of(peer), version, squares))
            case _:
                raise ProtocolError(f"server {self.endpoint.rank} does not take {message}")

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
                self._events.append(o.Averaged(self._maker.average(update)))
            case o.ShareNorm(version, squares):
                for server in self.job.servers:
                    if server != self.endpoint.rank:
                        self.endpoint.send(server, m.PartialNorm(version, squares))
            case o.Renew(update, squares):
                self._renew(update, squares)
            case o.Forget(slots):
                for slot in slots:
                    del self.receiving.pushes[slot]
            case decision:
                self.owner.perform(decision)

    def _renew(self, update: o.Update, squares: o.Squares) -> None:
        norm = self._maker.renew(update, squares, self.receiving.pushes)
        self.progress.advance(
            update.version, works_of(self.job, update.slots, self.receiving.pushes)
        )
        self._events.append(o.Updated())
        self.profile.step()
        # All servers copy their shards alike, where a checkpoint or an evaluation is due.
        save, hold = self.progress.checkpoint_due, self.progress.evaluation_due
        if save or hold:
            self.keep(hold=hold, save=save)
        self.owner.updated(update, norm)

    # Weights and their copies

    def send_weights(
        self, rank: int, orders: tuple[m.Order, ...], workers: tuple[int, ...]
    ) -> None:
        """Send a rank the weights as they are, for these workers, with rank 0's orders for them."""
        weights, answer = self.shard.weights, m.Answer(self.progress.version, orders)
        weights.reading(self.endpoint.send(rank, answer, weights.values))
        if self._remembers:
            for worker in workers:
                self.shard.remember(self.job.slot_of(worker))

    def keep(self, *, hold: bool, save: bool) -> None:
        """Keep a copy of the shard as it is; send it to who asked for it already."""
        self.snapshots.keep(self.progress.version, hold=hold, save=save)
        self._send_snapshots()

    def _send_snapshots(self) -> None:
        for version, ranks in list(self._asked.items()):
            snapshot = self.snapshots.get(version)
            if snapshot is not None:
                del self._asked[version]
                for rank in ranks:
                    answer = m.Answer(version, ())
                    self.shard.send(snapshot, partial(self.endpoint.send, rank, answer))

    def _take(self) -> Snapshot:
        progress = self.progress
        return self.shard.snapshot(
            progress.version, progress.units, progress.clocks, progress.batches.pairs()
        )

    def _write(self, snapshot: Snapshot) -> None:
        """Write this shard's file of a checkpoint in the background."""
        self.before_writing(snapshot)
        at, tensors = checkpoint_of(self.job, snapshot), snapshot.tensors()
        self.writer.submit(lambda: self._saving.save(at, tensors), ahead=WRITES_AHEAD)
