"""What happens at a rank that computes: messages of servers, losses, and terms that begin."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterable
from dataclasses import replace
from typing import TYPE_CHECKING

from psdp.cast import Cast, Term
from psdp.errors import PeerLost, ProtocolError, RunEnded
from psdp.transport import Arrival, Endpoint, Lost
from psdp.transport import messages as m

if TYPE_CHECKING:  # a spare rank listens too, and has nothing to save
    from psdp.workers.saving import Saving

WRITING_S = 0.01
"""The same while a file is written of which rank 0 is to hear."""

HEIR_S = 20.0
"""How long a rank waits for word of a spare one that may hold a shard whose other holders are
gone."""


class TermBegins(Exception):
    """Another term begins: what this rank did in the one before is void."""

    def __init__(self, term: Term) -> None:
        super().__init__(f"term {term.number} begins")
        self.term = term


class Listening:
    """Takes events in their order.

    Args:
        most_bytes: of a payload that may come.

    Attributes:
        saving: does what rank 0 asks of it, whatever this rank is at.
    """

    def __init__(self, job: Cast, endpoint: Endpoint, most_bytes: int) -> None:
        self._job = job
        self._endpoint = endpoint
        self._most_bytes = most_bytes
        self._events: deque[Arrival | Lost] = deque()
        self._moved: list[tuple[int, int]] = []
        self.saving: Saving | None = None
        self._orphaned: tuple[PeerLost, float] | None = None
        """Whose loss has left a shard to nobody, as far as this rank knows, and how long it waits
        for other word."""

    def keep(self, events: Iterable[Arrival | Lost | None]) -> None:
        """Keep what has happened for later."""
        heard = map(self._heard, events)
        self._events += [event for event in heard if event is not None]

    def next(self, timeout_s: float) -> Arrival | None:
        """Return what has arrived, or does within ``timeout_s``.

        Raises:
            PeerLost: a server is gone, and nobody holds its shard; or who leads has ended the run.
            TermBegins: it was void.
        """
        busy = self.saving is not None and self.saving.busy
        patience_s = WRITING_S if busy else timeout_s
        event = self._events.popleft() if self._events else self._endpoint.receive(patience_s)
        match self._heard(event):
            case Lost(peer, why):
                self._bear(peer, why)
            case Arrival(peer, m.Failed(status)):
                raise RunEnded(peer, status)
            case Arrival(_, m.Rehost(workers, ranks)):
                self._moved += zip(workers, ranks, strict=True)
            case Arrival(_, m.Begin(number, lost, _, joined) as begin):
                self._endpoint.meet(joined)
                held = m.joined_by(begin)
                self._begin(Term(number, frozenset(lost), held, self.take_moved()))
                raise TermBegins(self._job.term)
            case Arrival() as arrival:
                return arrival
            case None if self._orphaned is not None and time.monotonic() >= self._orphaned[1]:
                raise self._orphaned[0]
        return None

    def take_moved(self) -> tuple[tuple[int, int], ...]:
        """Return what was told since this was last asked: (worker, rank) of each for which another
        rank computes than at the start."""
        moved, self._moved = tuple(self._moved), []
        return moved

    def _heard(self, event: Arrival | Lost | None) -> Arrival | Lost | None:
        return event if self.saving is None else self.saving.heard(event)

    def expects_nothing(self, event: Arrival | Lost | None) -> None:
        """
        Raises:
            PeerLost: a server is gone.
            ProtocolError: something has arrived.
        """
        match event:
            case Lost(peer, why):
                self._bear(peer, why)
            case Arrival(peer, message):
                raise ProtocolError(f"server rank {peer} sent {message} out of turn")

    def term_begins(self) -> bool:
        """Say whether another term begins, in which nothing counts that is under way."""
        arrivals = (event for event in self._events if isinstance(event, Arrival))
        return any(isinstance(arrival.message, m.Begin) for arrival in arrivals)

    def _bear(self, peer: int, why: str) -> None:
        """
        Raises:
            PeerLost: a server is gone, and nobody can hold its shard.
        """
        lost = self._endpoint.lost
        try:
            self._job.without(lost)
        except PeerLost:
            gone = PeerLost(f"server rank {peer} is gone ({why})")
        else:
            return
        first, until_s = self._orphaned or (gone, time.monotonic() + HEIR_S)
        heirs = {*self._job.spares} - lost - {self._endpoint.rank} if self._job.stands_by else ()
        if not heirs:
            raise first
        # One may have joined the shard in a term of which who led has not come to tell this rank.
        self._endpoint.meet(heirs)
        self._orphaned = first, until_s

    def _begin(self, term: Term) -> None:
        self._job, self._orphaned = replace(self._job, term=term), None
        # What is of the term before is void; a later one, or the end, may have come by now.
        self._events = deque(
            event
            for event in self._events
            if isinstance(event, Lost) or isinstance(event.message, m.Rehost | m.Begin | m.Finish)
        )
        self._endpoint.begin(term.number, self._most_bytes)
