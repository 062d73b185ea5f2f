"""A rank that holds a shard and does not lead, a server or one that stands by for a server: it does
to its shard what the leader does, in that order."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Collection
from contextlib import suppress
from typing import Any, NoReturn

from psdp.errors import PeerLost, RunEnded
from psdp.protocol import Move
from psdp.protocol import order as o
from psdp.records.events import event_in
from psdp.records.record import Record
from psdp.records.recorder import Recorder
from psdp.servers.changing import TermEnds, bearing
from psdp.servers.ending import LAST_SAVE_S
from psdp.servers.means import works_of
from psdp.servers.noting import Noting
from psdp.servers.relief import Excused, Relief
from psdp.servers.saving import Refused, Saved
from psdp.servers.serving import TICK_S, WRITE_S, Serving
from psdp.servers.updates import Hearing
from psdp.transport import messages as m

PATIENCE_S = LAST_SAVE_S + 0.2
"""How long a server that cannot go on waits for rank 0 to save the weights, and to end all."""


class Follower:
    """Takes the leader's decisions one after the other.

    Args:
        noting: of who stands by for the leader: takes down what that writes.
        record: of the events, which the leader writes.
        signalled: returns the name of a signal that asked this rank to end, or None.
        gone: returns the ranks that are no more, as the launcher tells, and why it does.

    Attributes:
        over: nothing is left to do but to tell all that the run is.
        left: ranks that take part no more.
        told: of these, those of which who led has told: they are accounted for.
    """

    def __init__(
        self,
        serving: Serving,
        *,
        noting: Noting | None = None,
        record: Record | None = None,
        signalled: Callable[[], str | None] = lambda: None,
        gone: Callable[[], Collection[tuple[int, str]]] = list,
    ) -> None:
        self.job = serving.job
        self.serving = serving
        serving.owner = self
        self.finished = self.over = False
        self.noting = noting
        self.record = record
        self.relief = Relief(serving.job, serving)
        self._server = self.job.servers[self.job.shard_of(serving.endpoint.rank)]
        self.left: set[int] = set()
        self.told: set[int] = set()
        self._signalled = signalled
        self.gone = gone
        self._told = False
        self._relieves: int | None = None
        """The version that its server could not come to, or not past."""
        self._last: int | None = None
        """The version that the run ends with, once rank 0 has said so."""
        self._hearing = Hearing(self.job.leader)

    def run(self) -> None:
        """Serve until rank 0 says that the run is over.

        Raises:
            PsdpError: it cannot go on; the text says why.
            Excused: it is to leave, and others go on with its shard.
            TermEnds: others hold the shards from now on.
        """
        while not self.finished:
            idle = not self.serving.turn()
            by = self._signalled()
            if by is not None and not self._told:
                # Rank 0 ends the run, and wants this shard saved first.
                self.serving.endpoint.send(self.job.leader, m.Signalled(signal.Signals[by]))
                self._told = True
            # What a rank has sent before its end comes first: it may be that the run is over.
            for rank, why in self.gone() if idle else ():
                self.on_lost(rank, why)
        self.serving.giving.writer.close(WRITE_S)

    def give_up(self, error: BaseException) -> NoReturn:
        """Whoever leads ends the run.

        Raises:
            BaseException: ``error``.
        """
        raise error

    def fail(self, error: BaseException, status: int) -> None:
        """Tell rank 0 that this rank cannot go on, and do what it needs to save the weights."""
        serving, deadline = self.serving, time.monotonic() + PATIENCE_S
        if not isinstance(error, PeerLost):  # which rank 0 sees for itself
            serving.endpoint.send(self.job.leader, m.Failed(status))
        with suppress(BaseException):
            serving.recover()
        while not serving.endpoint.has_lost(self.job.leader) and time.monotonic() < deadline:
            with suppress(Exception, SystemExit, KeyboardInterrupt):  # rank 0 knows of the first
                serving.turn(TICK_S / 10)

    def on_message(self, peer: int, message: m.Message) -> None:
        match message:
            case m.Push(worker):
                if self.noting is not None:
                    self.noting.recorder.totals(peer, message.totals)
                if self.serving.take_push(peer, message):
                    self.serving.endpoint.send(self.job.leader, m.HasLanded(worker, peer))
            case m.Moved(worker, rank) if peer == self.job.leader:
                self._move(worker, rank)
            case m.Relieve(version) if peer == self._server:
                self._relieves = version
                self._relieve()
            case m.Noted() if peer in self.job.holders[0]:
                self.learn(message)
            case m.Left(rank) if peer == self.job.leader:
                self.left.add(rank)
                self.told.add(rank)
            case m.Halt():
                raise TermEnds(peer, message)
            case m.Excused(number) if peer == self.job.leader:
                raise Excused(number)
            case m.Failed(status) if peer == self.job.leader:
                raise RunEnded(peer, status)
            case m.Void(worker) if peer == self.job.leader:
                self.serving.void(worker)
            case m.Include() | m.ApplyMean() if peer == self.job.leader:
                update = self._hearing.hear(message)
                if update is not None:
                    self.serving.decided(update)
            case m.SaveNow(version) if peer == self.job.leader:
                self._last = version
                self.serving.giving.gate.open()
                self._save_last()
            case m.Finish() if peer in self.job.holders[0]:
                self.serving.happened(o.Decided(message))
            case o.Discard() | m.SendShard() | m.Over() if peer == self.job.leader:
                self.serving.happened(o.Decided(message))
            case m.TakeSnapshot() | m.SaveSnapshot() | m.DropSnapshot() if peer == self.job.leader:
                self.serving.happened(o.Decided(message))
            case _:
                self.serving.take(peer, message)

    def _move(self, worker: int, rank: int) -> None:
        before = self.serving.receiving.hosting.host(worker)
        if before == rank:
            return
        self.serving.receiving.move(worker, rank)
        if self.noting is not None and before is not None:
            self.noting.moved(worker, before, rank)

    def learn(self, noted: m.Noted) -> None:
        """Take a line of the record; of one that this rank missed, also what it tells of."""
        new = self.record is not None and self.record.hear(noted.line, noted.version, noted.text)
        if new and isinstance(event := event_in(noted.text).event, Move):
            self._move(event.worker, event.rank)

    def on_lost(self, peer: int, why: str) -> None:
        self.left.add(peer)
        endpoint = self.serving.endpoint
        if peer in self.job.holding:
            rest = bearing(self.job, self.left | endpoint.lost, peer, why)
            if rest.leader == endpoint.rank:
                raise TermEnds(peer)

    def on_written(self, result: Saved | Refused) -> None:
        told: m.Message
        match result:
            case Saved(version, file):
                cpu_s = self.serving.cpu_s
                told = m.ShardSaved(version, file["name"], file["bytes"], file["sha256"], cpu_s)
            case Refused(version, why):
                told = m.ShardRefused(version, why)
        self.serving.endpoint.send(self.job.leader, told)
        self.serving.giving.snapshots.written(version)

    def perform(self, decision: Any) -> None:
        serving = self.serving
        match decision:
            case m.SendShard(rank, workers):
                serving.giving.answer(rank, (), workers)
            case m.TakeSnapshot(hold):
                serving.giving.keep(hold=hold, save=not hold)
            case m.SaveSnapshot(version):
                serving.giving.save(version)
            case m.DropSnapshot(version):
                serving.giving.snapshots.release(version)
            case m.Over():
                self.over = True
                if not serving.giving.serves:
                    serving.giving.follow()
            case m.Finish():
                self.finished = True

    def updated(self, update: o.Update, norm: float) -> None:
        self.note(update, norm)
        self._save_last()
        self._relieve()

    def _relieve(self) -> None:
        """Tell a server that has failed that this rank goes on, if it has not come to the same."""
        if self._relieves is not None and self.serving.progress.version >= self._relieves:
            self.serving.endpoint.send(self._server, m.Relieved())
            self._relieves = None

    @property
    def recorder(self) -> Recorder | None:
        """Takes the records that the leader writes, at who may take over from it."""
        return None if self.noting is None else self.noting.recorder

    def note(self, update: o.Update, norm: float) -> None:
        """Take an update down, as the leader does."""
        if self.noting is not None:
            serving = self.serving
            works = works_of(self.job, update.slots, serving.receiving.pushes)
            self.noting.updated(update, works, norm, serving.progress)
        if self.record is not None:
            self.record.forget(self.serving.needed)

    def _save_last(self) -> None:
        """Save the version that the run ends with, if this is it."""
        if self.serving.progress.version == self._last:
            self.serving.giving.save_last()
