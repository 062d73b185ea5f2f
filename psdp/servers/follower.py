"""A server that is not rank 0: it does to its shard what rank 0 does, in that order."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from psdp.errors import PeerLost
from psdp.protocol import order as o
from psdp.servers.ending import LAST_SAVE_S
from psdp.servers.saving import Refused, Saved
from psdp.servers.serving import TICK_S, WRITE_S, Serving
from psdp.transport import messages as m

PATIENCE_S = LAST_SAVE_S + 0.2
"""How long a server that cannot go on waits for rank 0 to save the weights, and to end all."""


class Follower:
    """Takes rank 0's decisions one after the other.

    Args:
        signalled: returns the name of a signal that asked this rank to end, or None.
    """

    def __init__(
        self, serving: Serving, *, signalled: Callable[[], str | None] = lambda: None
    ) -> None:
        self.job = serving.job
        self.serving = serving
        serving.owner = self
        self.finished = False
        self._signalled = signalled
        self._told = False
        self._last: int | None = None
        """The version that the run ends with, once rank 0 has said so."""
        self._included: list[tuple[int, float]] = []

    def run(self) -> None:
        """Serve until rank 0 says that the run is over.

        Raises:
            PsdpError: it cannot go on; the text says why.
        """
        while not self.finished:
            self.serving.turn()
            by = self._signalled()
            if by is not None and not self._told:
                # Rank 0 ends the run, and wants this shard saved first.
                self.serving.endpoint.send(self.job.leader, m.Signalled(signal.Signals[by]))
                self._told = True
        self.serving.writer.close(WRITE_S)

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
                if self.serving.take_push(peer, message):
                    self.serving.endpoint.send(self.job.leader, m.HasLanded(worker, peer))
            case m.Moved(worker, rank) if peer == self.job.leader:
                self.serving.receiving.move(worker, rank)
            case m.Void(worker) if peer == self.job.leader:
                self.serving.void(worker)
            case m.Include(slots, weights) if peer == self.job.leader:
                self._included += zip(slots, weights, strict=True)
            case m.ApplyMean(version, rate) if peer == self.job.leader:
                slots, weights = zip(*self._included, strict=True)
                self._included.clear()
                self.serving.happened(o.Decided(o.Update(version, slots, weights, rate)))
            case m.SaveNow(version) if peer == self.job.leader:
                self._last = version
                self._save_last()
            case o.Discard() | m.SendShard() | m.Finish() if peer == self.job.leader:
                self.serving.happened(o.Decided(message))
            case m.TakeSnapshot() | m.SaveSnapshot() | m.DropSnapshot() if peer == self.job.leader:
                self.serving.happened(o.Decided(message))
            case _:
                self.serving.take(peer, message)

    def on_lost(self, peer: int, why: str) -> None:
        if peer in self.job.holding:
            raise PeerLost(f"server rank {peer} is gone ({why}); its shard is lost with it")

    def on_written(self, result: Saved | Refused) -> None:
        told: m.Message
        match result:
            case Saved(version, file):
                cpu_s = self.serving.cpu_s
                told = m.ShardSaved(version, file["name"], file["bytes"], file["sha256"], cpu_s)
            case Refused(version, why):
                told = m.ShardRefused(version, why)
        self.serving.endpoint.send(self.job.leader, told)
        self.serving.snapshots.written(version)

    def perform(self, decision: Any) -> None:
        serving = self.serving
        match decision:
            case m.SendShard(rank, workers):
                serving.send_weights(rank, (), workers)
            case m.TakeSnapshot():
                serving.keep(hold=True, save=False)
            case m.SaveSnapshot(version):
                serving.snapshots.release(version, save=True)
            case m.DropSnapshot(version):
                serving.snapshots.release(version, save=False)
            case m.Finish():
                self.finished = True

    def updated(self, update: o.Update, norm: float) -> None:
        self._save_last()  # rank 0 takes the records

    def _save_last(self) -> None:
        """Save the version that the run ends with, if this is it."""
        if self.serving.progress.version == self._last:
            self.serving.keep(hold=False, save=True)
