"""How a spare rank comes to hold a shard: what the server that holds it hands over when a term
begins, and how that is taken."""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Generic, TypeVar

from psdp.checkpoint import Snapshot
from psdp.errors import ProtocolError
from psdp.job import Job
from psdp.params import Array
from psdp.protocol.order import Update
from psdp.records.record import Record
from psdp.records.recorder import Recorder
from psdp.servers.serving import Serving
from psdp.servers.shard import Shard
from psdp.servers.updates import Hearing
from psdp.transport import Endpoint, Room
from psdp.transport import messages as m

PART = 512
"""Characters of an account in one message."""

MOST = 1 << 26
"""Characters of a whole one: with what is told of 100,000 workers it is shorter by far."""

Role = TypeVar("Role")


def begin_term(job: Job, number: int, shard: Shard, endpoint: Endpoint) -> None:
    """Begin the term of a job at a rank that holds the shard of this number: what comes of an
    earlier one is void from now on."""
    spans = job.shards[number], job.payloads[number]
    items = shard.weights.values.itemsize, job.codec.item.itemsize
    most = max(len(span) * size for span, size in zip(spans, items, strict=True))
    endpoint.begin(job.term.number, most)


def hand_over(
    serving: Serving, rank: int, term: int, recorder: Recorder | None, record: Record | None
) -> None:
    """Start sending a rank all that a shard is, as its server begins a term.

    Args:
        recorder: has the records, where that rank may have to go on with them.
        record: of the events.
    """
    endpoint, progress = serving.endpoint, serving.progress
    copies = [serving.giving.take(), *serving.giving.snapshots.held()]
    account = {
        "units_before": progress.units_before,
        "copies": [
            {
                "version": copy.version,
                "units": copy.units,
                "updates": copy.updates,
                "clocks": list(copy.clocks.items()),
                "batches": list(copy.batches),
            }
            for copy in copies
        ],
        "records": None if recorder is None else recorder.account(),
        "events": None if record is None else record.account(progress.version),
    }
    text = json.dumps(account)
    for start in range(0, len(text), PART):
        last = start + PART >= len(text)
        endpoint.send(rank, m.Account(term, text[start : start + PART], last))
    for number, vector in enumerate(vector for copy in copies for vector in copy.vectors):
        endpoint.send(rank, m.Vector(term, number), vector)


@dataclass(frozen=True)
class Handed:
    """What a rank has been handed.

    Attributes:
        copies: of the shard: as it is, and those that are still needed.
        units_before: in its version before that.
        records: what they have so far; None where another rank goes on with them.
        events: how far their record has come; None if there is none.
        known: the latest updates that were decided.
        left: ranks that take part no more.
    """

    copies: list[Snapshot]
    units_before: int
    records: dict[str, Any] | None
    events: dict[str, Any] | None
    known: tuple[Update, ...]
    left: frozenset[int]


class Joining(Generic[Role]):
    """A rank that has made a shard, on the way to hold it: in the first term in which it is to, as
    long as its server is there.

    Args:
        job: in whatever term.
        number: of the shard.
        moved: returns (worker, rank) of those that were told to be moved, since it was last asked.
        begin: returns what this rank does in the term of a job.

    Attributes:
        role: that, once the term has begun.
    """

    def __init__(
        self,
        job: Job,
        number: int,
        shard: Shard,
        endpoint: Endpoint,
        moved: Callable[[], tuple[tuple[int, int], ...]],
        begin: Callable[[Job, Handed], Role],
    ) -> None:
        self.number = number
        self.role: Role | None = None
        self._shard = shard
        self._endpoint = endpoint
        self._moved = moved
        self._begin = begin
        self._left: set[int] = set()
        self._prepare(job, None)

    def _prepare(self, job: Job, leader: int | None) -> None:
        self._job, self._leader = job, leader
        self._version: int | None = None
        self._hearing: Hearing | None = None if leader is None else Hearing(leader)
        self._known: deque[Update] = deque(maxlen=len(job.workers))
        self._text = ""
        self._account: dict[str, Any] | None = None
        self._copies: list[Snapshot] = []
        self._landed = 0
        self._moved()

    def heard(self, peer: int, message: m.Message) -> None:
        """Take a message of a rank that holds a shard.

        Raises:
            ProtocolError: it is not for a rank that is about to.
        """
        number, lost = self._job.term.number, self._job.term.lost
        if peer in lost:
            return
        match message:
            case m.Halt(term) if (term, len(message.lost)) > (number, len(lost)):
                self._halt(peer, message)
            case m.Include() | m.ApplyMean() if self._hearing and peer == self._leader:
                update = self._hearing.hear(message)
                if update is not None:
                    self._known.append(update)
            case m.Left(rank):
                self._left.add(rank)
            case m.Close(term, version, _) if (term, peer) == (number, self._leader):
                self._version = version
            case m.Account(term, text, last) if term == number:
                if len(self._text) > MOST:
                    raise ProtocolError(f"rank {peer} sent an account of more than {MOST} letters")
                self._text += text
                if last:
                    self._read(peer)
            case m.Vector(term, _):
                self._landed += term == number
            case m.Halt() | m.Account() | m.Close() | m.Include() | m.ApplyMean():
                pass  # of a term that has not begun
            case _:
                raise ProtocolError(f"server rank {peer} sent {message} to a spare rank")
        expected = sum(len(copy.vectors) for copy in self._copies)
        if self._version is not None and self._copies and self._landed == expected:
            self._enter()

    def _halt(self, leader: int, halt: m.Halt) -> None:
        """Follow a rank to a term, if it is one in which this rank holds the shard."""
        joined = m.joined_by(halt)
        if (self.number, self._endpoint.rank) in joined:
            term = replace(self._job.term, number=halt.term, lost=frozenset(halt.lost))
            self._prepare(replace(self._job, term=replace(term, joined=joined)), leader)
            self._endpoint.send(leader, m.Halted(halt.term, lacks=True))

    def _read(self, peer: int) -> None:
        """All of an account is there: make room for the vectors that it tells of."""
        try:
            self._account = account = json.loads(self._text)
            self._copies = [self._room(copy) for copy in account["copies"]]
        except (ValueError, KeyError, TypeError) as error:
            raise ProtocolError(f"rank {peer} sent no account of its shard: {error}") from error

    def _room(self, told: dict[str, Any]) -> Snapshot:
        version, units, clocks = told["version"], told["units"], dict(told["clocks"])
        batches = [(start, stop) for start, stop in told["batches"]]
        copy = self._shard.snapshot(version, units, clocks, batches)
        copy.updates = told["updates"]
        return copy

    def landing(self, peer: int, message: m.Message) -> Array | Room:
        """Return where a vector lands.

        Raises:
            ProtocolError: none is expected from that peer.
        """
        vectors = [vector for copy in self._copies for vector in copy.vectors]
        match message:
            case m.Vector(term, number) if term == self._job.term.number:
                if 0 <= number < len(vectors):
                    return vectors[number]
            case m.Vector():
                return self._shard.snapshot(0, 0, {}).weights  # of a term that has not begun
        raise ProtocolError(f"rank {peer} sent a payload with {message}")

    def _enter(self) -> None:
        """All is there: begin the term."""
        assert self._account is not None
        assert self._leader is not None
        job = replace(self._job, term=replace(self._job.term, moved=self._moved()))
        begin_term(job, self.number, self._shard, self._endpoint)
        before, records, events = (
            self._account[name] for name in ("units_before", "records", "events")
        )
        known, left = tuple(self._known), frozenset(self._left)
        self.role = self._begin(job, Handed(self._copies, before, records, events, known, left))
        self._endpoint.send(self._leader, m.Closed(job.term.number))
