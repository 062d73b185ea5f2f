"""What a shard gives away: its weights to workers that are answered, and copies of them to those
that evaluate and to the disk."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from psdp.checkpoint import BackgroundWriter, CheckpointStore, Snapshot
from psdp.job import Job
from psdp.records.timeline import NOBODY_LOOKS, Timeline
from psdp.servers.gate import Gate
from psdp.servers.progress import Progress
from psdp.servers.saving import Saving
from psdp.servers.shard import Shard
from psdp.servers.snapshots import Snapshots, checkpoint_of
from psdp.transport import Endpoint, Sending
from psdp.transport import messages as m

WRITES_AHEAD = 4
"""Writes that may wait for the disk before a further one makes the server wait."""


class Giving:
    """Gives away what a shard holds; who stands by gives nothing, and tells its server so.

    Args:
        held: copies of the term before that are still needed.
        timeline: takes note of what is done when.

    Attributes:
        gate: holds back what its standby does not know of.
        snapshots: copies that somebody needs.
        before_writing: called with each snapshot that is to be written.
    """

    def __init__(
        self,
        job: Job,
        endpoint: Endpoint,
        shard: Shard,
        progress: Progress,
        store: CheckpointStore,
        held: Sequence[Snapshot] = (),
        timeline: Timeline = NOBODY_LOOKS,
    ) -> None:
        number, rank = job.shard_of(endpoint.rank), endpoint.rank
        self.gate = Gate(closed=job.standby_of(rank) is not None)
        self.writer: BackgroundWriter[Any] = BackgroundWriter()
        self.snapshots = Snapshots(self.take, self._write, shard.recycle, held)
        self.before_writing: Callable[[Snapshot], None] = lambda snapshot: None
        self._timeline = timeline
        self._job = job
        self._endpoint = endpoint
        self._shard = shard
        self._progress = progress
        self._server = job.servers[number]
        self._saving = Saving(store, number, len(job.servers))
        self._remembers = job.config.optim.lag_compensation == "dc-asgd"
        self._asked: defaultdict[int, list[int]] = defaultdict(list)
        self._followed = 0

    @property
    def serves(self) -> bool:
        """Whether this rank is the one of its shard that gives."""
        return self._server == self._endpoint.rank

    def answer(self, rank: int, orders: tuple[m.Order, ...], workers: tuple[int, ...]) -> None:
        """Send a rank the weights as they are, for these workers, with rank 0's orders for them."""
        if self._remembers:
            for worker in workers:
                self._shard.remember(self._job.slot_of(worker))
        if not self.serves:
            self.follow()
            if self._job.answers_at_once:
                self._endpoint.send(rank, m.Follows(self._followed))
            return
        answer, weights, sending = (
            m.Answer(self._progress.version, orders),
            self._shard.weights,
            Sending(),
        )
        weights.reading(sending)
        send = partial(self._endpoint.send, rank, answer, weights.values, sending)
        self.gate.answer(send, at_once=self._job.answers_at_once)

    def follow(self) -> None:
        """Tell the server that this rank, which stands by for it, has come as far as an answer."""
        self._followed += 1
        self._endpoint.send(self._server, m.Follows(self._followed))

    def ask(self, peer: int, version: int) -> None:
        """Send a peer the copy of a version, now or when there is one."""
        if self.snapshots.is_gone(version):
            # Others do its part by now: what comes of it does not count.
            weights, answer = self._shard.weights, m.Answer(self._progress.version, ())
            weights.reading(self._endpoint.send(peer, answer, weights.values))
        else:
            self._asked[version].append(peer)
            self._send_snapshots()

    def keep(self, *, hold: bool, save: bool) -> None:
        """Keep a copy of the shard as it is; send it to who asked for it already."""
        self.snapshots.keep(self._progress.version, hold=hold, save=save and self.serves)
        self._send_snapshots()

    def save_last(self) -> None:
        """Write the shard as it is, when the run ends, whichever rank serves it."""
        self.snapshots.keep(self._progress.version, hold=False, save=True)

    def save(self, version: int) -> None:
        """Write the copy of a version, if this rank is the one of its shard that does."""
        if self.serves:
            self.snapshots.save(version)

    def _send_snapshots(self) -> None:
        for version, ranks in list(self._asked.items()):
            snapshot = self.snapshots.get(version)
            if snapshot is not None:
                del self._asked[version]
                for rank in ranks:
                    answer = m.Answer(version, ())
                    self._shard.send(snapshot, partial(self._endpoint.send, rank, answer))

    def take(self) -> Snapshot:
        """Return a copy of the shard as it is."""
        progress, begin_s = self._progress, time.monotonic()
        snapshot = self._shard.snapshot(
            progress.version, progress.units, progress.clocks, progress.batches.pairs()
        )
        self._timeline.note("copy", begin_s, time.monotonic(), version=progress.version)
        return snapshot

    def _write(self, snapshot: Snapshot) -> None:
        """Write this shard's file of a checkpoint in the background."""
        self.before_writing(snapshot)
        at, tensors = checkpoint_of(self._job, snapshot), snapshot.tensors()

        def write() -> Any:
            begin_s = time.monotonic()
            saved = self._saving.save(at, tensors)
            self._timeline.note("save", begin_s, time.monotonic(), aside=True, version=at.version)
            return saved

        self.gate.hold(lambda: self.writer.submit(write, ahead=WRITES_AHEAD))
