"""From one term to the next, at one rank that holds a shard."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

from psdp.cast import Term
from psdp.errors import PeerLost
from psdp.job import Job
from psdp.protocol import order as o
from psdp.servers.joining import begin_term, hand_over
from psdp.servers.role import Role
from psdp.servers.updates import Hearing, messages_of
from psdp.transport import messages as m
from psdp.transport.headers import MOST_INCLUDED

SNAPSHOTS = (m.TakeSnapshot, m.SaveSnapshot, m.DropSnapshot)
"""Decisions on copies, which a later term goes on with."""


class TermEnds(Exception):
    """A rank that held a shard is gone, or one joins.

    Attributes:
        rank: that is gone, or joins, or that leads to the next term.
        halt: its word; None if this rank is to lead. If it leads already, and none joins, a replay
            has come to where another term began.
        shard: that a rank is to hold which joins.
    """

    def __init__(self, rank: int, halt: m.Halt | None = None, shard: int | None = None) -> None:
        super().__init__(f"rank {rank} ends the term")
        self.rank = rank
        self.halt = halt
        self.shard = shard


def bearing(job: Job, lost: Iterable[int], rank: int, why: str) -> Job:
    """Return a job without ranks that are lost.

    Args:
        rank, why: of the last of them.

    Raises:
        PeerLost: no rank is left that held the same shard.
    """
    try:
        return job.without(lost)
    except PeerLost:
        text = f"server rank {rank} is gone ({why}); its shard is lost with it"
        raise PeerLost(text) from None


class Change:
    """From one term to the next, at one rank that holds a shard.

    Args:
        role: of the term that ends.
    """

    def __init__(self, role: Role) -> None:
        self._role = role
        self._serving = role.serving
        self._endpoint = role.serving.endpoint
        self._rank = self._endpoint.rank
        self._first = role.job
        self._job = role.job
        """Of the term that is to begin, as far as that is known."""
        self._number = role.job.term.number
        self._leader = role.job.leader
        self._hearing: dict[int, Hearing] = {}
        self._moved: list[tuple[int, int]] = []
        self._halted: set[int] = set()
        """Ranks that have told what they know."""
        self._closed: set[int] = set()
        """Ranks that have begun the next term."""
        self._lacking: set[int] = set()
        """Ranks that have not got their shard yet."""
        self._version: int | None = None
        """In which it begins."""
        self._over = False
        role.serving.owner = self

    def run(self, ends: TermEnds) -> Job:
        """Come to the next term; return the job in it.

        Raises:
            PeerLost: a shard is lost.
        """
        if ends.halt is not None:
            self._halt(ends.rank, ends.halt)
        elif ends.shard is not None:
            self._job = self._job.joined_by(ends.shard, ends.rank)
            self._lead(self._endpoint.lost | self._role.left)
        elif ends.rank == self._rank:
            self._lead(())
        else:
            self.on_lost(ends.rank, "")
        while not self._over:
            idle = not self._serving.turn()
            for rank, why in self._role.gone() if idle else ():
                self.on_lost(rank, why)
        return self._job

    # What happens meanwhile

    def on_message(self, peer: int, message: m.Message) -> None:
        if peer in self._job.term.lost:
            return
        match message:
            case m.Halt() if self._goes_further(message):
                self._halt(peer, message)
            case m.Include() | m.ApplyMean() if self._heeds(peer):
                update = self._hearing.setdefault(peer, Hearing(peer)).hear(message)
                if update is not None and update.version > self._serving.last:
                    self._serving.decided(update)
            case m.Noted() if self._heeds(peer):
                self._role.learn(message)
            case m.Halted(number, lacks) if number == self._number:
                self._halted.add(peer)
                self._lacking |= {peer} if lacks else set()
            case m.Rehost(workers, ranks) if peer == self._leader:
                self._moved += zip(workers, ranks, strict=True)
            case m.Close(number, version, lacking) if number == self._number and (
                peer == self._leader
            ):
                self._version, self._lacking = version, {*lacking}
            case m.Closed(number) if number == self._number:
                self._closed.add(peer)
            case m.Left(rank):
                self._role.left.add(rank)
                self._role.told.add(rank)
            case m.PartialNorm():
                self._serving.take(peer, message)
            case m.Failed():
                self._role.on_message(peer, message)
            case _:
                pass  # it was of the term that is over
        self._go_on()

    def on_lost(self, peer: int, why: str) -> None:
        self._role.left.add(peer)
        if peer not in self._job.holding or peer in self._job.term.lost:
            return
        lost = self._endpoint.lost | self._role.left
        leader = bearing(self._job, lost, peer, why).leader
        if leader == self._rank:
            self._lead(lost)

    def on_written(self, result: Any) -> None:
        """Of the term that is over."""

    def perform(self, decision: Any) -> None:
        if isinstance(decision, SNAPSHOTS):
            self._role.perform(decision)

    def updated(self, update: o.Update, norm: float) -> None:
        self._role.note(update, norm)

    # The way

    def _heeds(self, peer: int) -> bool:
        """Say whether what a rank knows of updates counts: all tell who leads, which tells all.
        What a rank that is lost said last may not be known to others."""
        if self._leader == self._rank:
            return self._version is None and peer in self._job.holding
        return peer == self._leader

    def _goes_further(self, halt: m.Halt) -> bool:
        """Say whether this is the word of a later leader than the one this rank has heard. It gives
        a term the same number if it was not told of that before the one before it was lost."""
        known = self._number, len(self._job.term.lost)
        return (halt.term, len(halt.lost)) > known

    def _lead(self, lost: Iterable[int]) -> None:
        """Begin to lead to a term without these ranks."""
        self._prepare(self._number + 1, self._job.without(lost), self._rank)
        hosting, first = self._serving.receiving.hosting, replace(self._job, term=Term()).hosting()
        for worker in self._job.workers:
            rank = hosting.host(worker)
            if rank is not None and rank != first.host(worker):
                self._moved.append((worker, rank))
        record = self._role.record
        self._tell(m.Halt(self._number, *self._changes(), 0 if record is None else record.lines))
        self._go_on()

    def _halt(self, leader: int, halt: m.Halt) -> None:
        """Follow another rank to a term: tell it what this one knows."""
        term = replace(self._first.term, lost=frozenset(halt.lost), joined=m.joined_by(halt))
        self._prepare(halt.term, replace(self._first, term=term), leader)
        record = self._role.record
        for line in () if record is None else record.since(halt.line):
            self._endpoint.send(leader, m.Noted(*line))
        for update in self._serving.known:
            for message in messages_of(update):
                self._endpoint.send(leader, message)
        self._endpoint.send(leader, m.Halted(self._number, lacks=False))

    def _prepare(self, number: int, job: Job, leader: int) -> None:
        assert job.holders, "which raises"
        self._number, self._leader, self._version = number, leader, None
        self._job = job
        self._moved, self._halted, self._closed = [], {self._rank}, set()
        self._lacking = set()

    def _go_on(self) -> None:
        """Take the next step if its time has come."""
        leads, all_ranks = self._leader == self._rank, {*self._job.holding}
        if leads and self._version is None and self._halted >= all_ranks:
            self._close()
        if self._version == self._serving.progress.version and self._rank not in self._closed:
            self._begin()
            if not leads:
                self._endpoint.send(self._leader, m.Closed(self._number))
                self._over = True
        if leads and self._closed >= all_ranks:
            self._release()

    def _close(self) -> None:
        """All that is known is known here: have all come to the last version."""
        self._version = self._serving.last
        for update in self._serving.known:
            for message in messages_of(update):
                self._tell(message)
        for rehost in self._rehosting():
            self._tell(rehost)
        for rank in self._role.told if self._lacking else ():
            self._tell(m.Left(rank))
        self._tell(m.Close(self._number, self._version, tuple(self._lacking)))

    def _begin(self) -> None:
        """Begin the term: what comes of another one is void from now on."""
        self._closed.add(self._rank)
        term = replace(self._job.term, number=self._number, moved=tuple(self._moved))
        self._job = job = replace(self._job, term=term)
        begin_term(job, job.shard_of(self._rank), self._serving.shard, self._endpoint)
        standby = job.standby_of(self._rank)
        if standby in self._lacking:
            hand_over(self._serving, standby, self._number, self._role.recorder, self._role.record)

    def _release(self) -> None:
        """All that hold a shard have begun the term: let the workers do so."""
        self._serving.giving.gate.settle()
        begin = m.Begin(self._number, *self._changes())
        for rank in self._job.worker_ranks:
            for rehost in self._rehosting():
                self._endpoint.send(rank, rehost)
            self._endpoint.send(rank, begin)
        self._over = True

    def _changes(self) -> tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]:
        """Return the ranks that are lost, and of those that have joined the shards and the ranks,
        since the start."""
        term = self._job.term
        shards, ranks = zip(*term.joined, strict=True) if term.joined else ((), ())
        return tuple(sorted(term.lost)), tuple(shards), tuple(ranks)

    def _rehosting(self) -> list[m.Rehost]:
        parts = range(0, len(self._moved), MOST_INCLUDED)
        moved = [self._moved[start : start + MOST_INCLUDED] for start in parts]
        return [m.Rehost(*map(tuple, zip(*some, strict=True))) for some in moved]

    def _tell(self, message: m.Message) -> None:
        for rank in self._job.holding:
            if rank != self._rank:
                self._endpoint.send(rank, message)
