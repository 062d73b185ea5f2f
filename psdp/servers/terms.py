"""The terms of a run, as a rank goes through them that holds a shard.

A term ends with the loss of a rank that held a shard, and the next one begins much as a run is
resumed, but from memory. The first holder of the first shard that is left leads the way there: it
asks all others which updates they know of (each worker's pushes are with all of them), has all come
to the last version of these, and lets the workers ask again. What was decided beside updates, and
all that was under way, is void.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any

from psdp.cast import Term
from psdp.errors import PeerLost
from psdp.job import Job
from psdp.protocol import order as o
from psdp.servers.role import Role
from psdp.servers.updates import Hearing, messages_of
from psdp.transport import messages as m
from psdp.transport.headers import MOST_INCLUDED

GOODBYE_S = 0.5
"""How long a leader that fails tells the others so."""

SNAPSHOTS = (m.TakeSnapshot, m.SaveSnapshot, m.DropSnapshot)
"""Decisions on copies, which a later term goes on with."""


class TermEnds(Exception):
    """A rank that held a shard is gone.

    Attributes:
        rank: that is gone, or that leads to the next term.
        halt: its word; None if this rank is to lead. If it leads already, a replay has come to
            where another term began.
    """

    def __init__(self, rank: int, halt: m.Halt | None = None) -> None:
        super().__init__(f"rank {rank}, which held a shard, is gone")
        self.rank = rank
        self.halt = halt


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


class Terms:
    """A rank that holds a shard: one role after the other.

    Args:
        first: its role in the first term.
        follow: returns its role in the term of a job, after another one.

    Attributes:
        role: the present one.
    """

    replaceable = False

    def __init__(self, first: Role, follow: Callable[[Job, Role], Role]) -> None:
        self.role = first
        self._follow = follow
        self._given_up = False

    @property
    def job(self) -> Job:
        """The job in the present term."""
        return self.role.job

    @property
    def leads(self) -> bool:
        """Whether this rank leads the run."""
        return self.role.job.leader == self.role.serving.endpoint.rank

    def run(self) -> None:
        """Hold the shard to the end of the run.

        Raises:
            PeerLost: a shard is lost.
            BaseException: it ended early.
        """
        while True:
            try:
                self.role.run()
                return
            except TermEnds as ends:
                end = ends
            try:
                job = self._next(end)
                self.role.serving.giving.writer.leave()
                self.role = self._follow(job, self.role)
            except BaseException as error:
                self._given_up = True
                self.role.give_up(error)

    def _next(self, ends: TermEnds) -> Job:
        """Return the job in the next term."""
        role = self.role
        if role.over:  # others may have ended, and nothing is asked of them any more
            return role.job.without({ends.rank, *role.left, *role.serving.endpoint.lost})
        return Change(role).run(ends)

    def leaves_it_to_another(self, error: BaseException) -> bool:
        """Say whether another rank goes on with this one's shard after an error here."""
        return not self._given_up and self.role.relief.found(error)

    def fail(self, error: BaseException, status: int) -> None:
        """Do what is left to do after an error: where this rank leads, the others are not to go on
        without it."""
        if not self.leads or not self.job.stands_by:
            self.role.fail(error, status)
            return
        job, endpoint = self.role.job, self.role.serving.endpoint
        others = {*job.worker_ranks, *job.holding} - {endpoint.rank} - self.role.left
        endpoint.flush([endpoint.send(rank, m.Failed(status)) for rank in others], GOODBYE_S)


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
        self._hearing = {rank: Hearing(rank) for rank in role.job.holding}
        self._moved: list[tuple[int, int]] = []
        self._halted: set[int] = set()
        """Ranks that have told what they know."""
        self._closed: set[int] = set()
        """Ranks that have begun the next term."""
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
                update = self._hearing[peer].hear(message)
                if update is not None and update.version > self._serving.last:
                    self._serving.decided(update)
            case m.Noted() if self._heeds(peer):
                self._role.learn(message)
            case m.Halted(number) if number == self._number:
                self._halted.add(peer)
            case m.Rehost(workers, ranks) if peer == self._leader:
                self._moved += zip(workers, ranks, strict=True)
            case m.Close(number, version) if number == self._number and peer == self._leader:
                self._version = version
            case m.Closed(number) if number == self._number:
                self._closed.add(peer)
            case m.Left(rank):
                self._role.left.add(rank)
            case m.PartialNorm():
                self._serving.take(peer, message)
            case m.Failed():
                self._role.on_message(peer, message)
            case _:
                pass  # it was of the term that is over
        self._go_on()

    def on_lost(self, peer: int, why: str) -> None:
        self._role.left.add(peer)
        if peer not in self._first.holding or peer in self._job.term.lost:
            return
        lost = self._endpoint.lost | self._role.left
        leader = bearing(self._first, lost, peer, why).leader
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
        self._prepare(self._number + 1, lost, self._rank)
        hosting, first = self._serving.receiving.hosting, replace(self._job, term=Term()).hosting()
        for worker in self._job.workers:
            rank = hosting.host(worker)
            if rank is not None and rank != first.host(worker):
                self._moved.append((worker, rank))
        record = self._role.record
        lines = 0 if record is None else record.lines
        self._tell(m.Halt(self._number, tuple(sorted(self._job.term.lost)), lines))
        self._go_on()

    def _halt(self, leader: int, halt: m.Halt) -> None:
        """Follow another rank to a term: tell it what this one knows."""
        self._prepare(halt.term, halt.lost, leader)
        record = self._role.record
        for line in () if record is None else record.since(halt.line):
            self._endpoint.send(leader, m.Noted(*line))
        for update in self._serving.known:
            for message in messages_of(update):
                self._endpoint.send(leader, message)
        self._endpoint.send(leader, m.Halted(self._number))

    def _prepare(self, number: int, lost: Iterable[int], leader: int) -> None:
        self._number, self._leader, self._version = number, leader, None
        self._job = self._first.without(lost)
        self._moved, self._halted, self._closed = [], {self._rank}, set()

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
        self._tell(m.Close(self._number, self._version))

    def _begin(self) -> None:
        """Begin the term: what comes of another one is void from now on."""
        self._closed.add(self._rank)
        term = replace(self._job.term, number=self._number, moved=tuple(self._moved))
        self._job = job = replace(self._job, term=term)
        shard, payload = (spans[job.shard_of(self._rank)] for spans in (job.shards, job.payloads))
        weights = self._serving.shard.weights.values
        most = max(len(shard) * weights.itemsize, len(payload) * job.codec.item.itemsize)
        self._endpoint.begin(self._number, most)

    def _release(self) -> None:
        """All that hold a shard have begun the term: let the workers do so."""
        self._serving.giving.gate.settle()
        begin = m.Begin(self._number, tuple(sorted(self._job.term.lost)))
        for rank in self._job.worker_ranks:
            for rehost in self._rehosting():
                self._endpoint.send(rank, rehost)
            self._endpoint.send(rank, begin)
        self._over = True

    def _rehosting(self) -> list[m.Rehost]:
        parts = range(0, len(self._moved), MOST_INCLUDED)
        moved = [self._moved[start : start + MOST_INCLUDED] for start in parts]
        return [m.Rehost(*map(tuple, zip(*some, strict=True))) for some in moved]

    def _tell(self, message: m.Message) -> None:
        for rank in self._job.holding:
            if rank != self._rank:
                self._endpoint.send(rank, message)
