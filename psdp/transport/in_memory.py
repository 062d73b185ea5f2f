"""The in-memory twin of the MPI transport: ranks are threads of one process.

Headers go through the same bytes, payloads are copied when their receiver polls, sums are added in
rank order, and a rank can be killed, so that whole runs and the loss of peers can be tested without
MPI.
"""

from __future__ import annotations

import threading
from collections import defaultdict, deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NoReturn

import numpy as np

from psdp.params import Array
from psdp.transport.base import Arrival, Endpoint, Lost, Sending
from psdp.transport.devices import MemorySpace
from psdp.transport.headers import decode, has_payload
from psdp.transport.link import Link
from psdp.transport.reducer import Reducer
from psdp.transport.shared import Neighbours
from psdp.transport.world import Gone


class Killed(Gone):
    """This rank is dead, as if by SIGKILL."""


class Aborted(Gone):
    """A rank has ended the whole job."""


@dataclass(frozen=True)
class Parcel:
    """A message on its way, from ``peer``."""

    peer: int
    header: bytes
    payload: Array | None
    sending: Sending


class InMemoryNetwork:
    """``size`` endpoints that reach one another.

    Args:
        neighbours: of each rank: what it shares with which others.
        vectors: of each rank: where its payloads lie, if not in the host's memory.
    """

    def __init__(
        self,
        size: int,
        neighbours: Mapping[int, Neighbours] | None = None,
        vectors: Mapping[int, MemorySpace] | None = None,
    ) -> None:
        self.changed = threading.Condition()
        self._inboxes: list[deque[Parcel | Lost]] = [deque() for _ in range(size)]
        self._dead: set[int] = set()
        self._aborted = False
        self.endpoints = [
            InMemoryEndpoint(
                self,
                rank,
                set(range(size)) - {rank},
                (neighbours or {}).get(rank),
                vectors=(vectors or {}).get(rank),
            )
            for rank in range(size)
        ]

    def check(self, rank: int) -> None:
        """
        Raises:
            Killed: this rank is dead.
            Aborted: the job is over.
        """
        if rank in self._dead:
            raise Killed
        if self._aborted:
            raise Aborted

    def is_dead(self, rank: int) -> bool:
        return rank in self._dead

    def abort(self) -> None:
        """Every rank is ended when it next does anything."""
        with self.changed:
            self._aborted = True
            self.changed.notify_all()

    def kill(self, rank: int) -> None:
        """Every other rank is told that this one is lost; what it had sent still arrives."""
        with self.changed:
            self._dead.add(rank)
            for parcel in self._inboxes[rank]:
                if isinstance(parcel, Parcel):
                    parcel.sending.done = True
            for other, inbox in enumerate(self._inboxes):
                if other != rank:
                    inbox.append(Lost(rank, "killed"))
            self.changed.notify_all()

    def give_back(self, rank: int, parcels: Sequence[Parcel | Lost]) -> None:
        """Have a rank take these again, before all that has come since."""
        with self.changed:
            self._inboxes[rank].extendleft(reversed(parcels))

    @property
    def payload_bytes(self) -> int:
        """Of all payloads that are on their way."""
        with self.changed:
            parcels = [parcel for inbox in self._inboxes for parcel in inbox]
        payloads = [parcel.payload for parcel in parcels if isinstance(parcel, Parcel)]
        return sum(payload.nbytes for payload in payloads if payload is not None)

    def put(self, to: int, parcel: Parcel) -> None:
        """Queue a parcel; one for a dead rank is gone at once."""
        self.check(parcel.peer)
        with self.changed:
            if to in self._dead:
                parcel.sending.done = True
            else:
                self._inboxes[to].append(parcel)

    def take(self, rank: int) -> Parcel | Lost | None:
        """Return the oldest thing in a rank's inbox."""
        self.check(rank)
        with self.changed:
            return self._inboxes[rank].popleft() if self._inboxes[rank] else None


class InMemoryEndpoint(Endpoint):
    """One rank of a :class:`InMemoryNetwork`."""

    def __init__(
        self,
        network: InMemoryNetwork,
        rank: int,
        peers: Iterable[int],
        neighbours: Neighbours | None = None,
        link: Link | None = None,
        vectors: MemorySpace | None = None,
    ) -> None:
        self._peers = set(peers)
        super().__init__(rank, self._peers, neighbours, link, vectors)
        self._network = network
        self._unheard: defaultdict[int, list[Parcel | Lost]] = defaultdict(list)
        """What has come from ranks that are no peers yet."""

    def _post(self, peer: int, header: bytes, raw: Array | None, sending: Sending) -> None:
        self._network.put(peer, Parcel(self.rank, header, raw, sending))

    def _listen_to(self, peer: int) -> None:
        self._peers.add(peer)
        self._network.give_back(self.rank, self._unheard.pop(peer, ()))

    def poll(self) -> Arrival | Lost | None:
        while (parcel := self._network.take(self.rank)) is not None:
            if parcel.peer not in self._peers:
                self._unheard[parcel.peer].append(parcel)
                continue
            if isinstance(parcel, Lost):
                self._forget(parcel.peer)
                return parcel
            arrival = self._receive(parcel)
            if arrival is not None:
                return arrival
        return None

    def _receive(self, parcel: Parcel) -> Arrival | None:
        peer, header = parcel.peer, decode(parcel.header, parcel.peer)
        if has_payload(header):
            target = self._landing_bytes(peer, header)
            if parcel.payload is not None:
                target[...] = parcel.payload
        parcel.sending.done = True
        return self._arrived(peer, header)

    def transferring(self) -> bool:
        return False

    def die(self) -> NoReturn:
        """Let this rank be dead from now on, as if by SIGKILL."""
        self._network.kill(self.rank)
        raise Killed

    def close(self) -> None:
        """Nothing is on its way but what a peer has not taken yet, and may still take."""


@dataclass
class _Sum:
    """One sum: what ranks have brought so far."""

    parts: dict[int, Array] = field(default_factory=dict)
    total: Array | None = None


class InMemorySums:
    """The sums of ``count`` ranks."""

    def __init__(self, count: int) -> None:
        self._lock = threading.Lock()
        self._count = count
        self._open = _Sum()

    def reducer(self, rank: int, check: Callable[[], None] = lambda: None) -> MemoryReducer:
        """Return the reducer of one of them; ``check`` raises if it shall wait no longer."""
        return MemoryReducer(self, rank, check)

    def bring(self, rank: int, vector: Array) -> _Sum:
        """Add a rank's vector to the sum that is open; the last one closes it."""
        with self._lock:
            current = self._open
            current.parts[rank] = vector.copy()
            if len(current.parts) == self._count:
                self._open = _Sum()
                current.total = np.sum([current.parts[r] for r in range(self._count)], axis=0)
            return current


class MemoryReducer(Reducer):
    """One rank of :class:`InMemorySums`."""

    def __init__(self, sums: InMemorySums, rank: int, check: Callable[[], None]) -> None:
        super().__init__()
        self._check = check
        self._sums = sums
        self._rank = rank
        self._sum = _Sum()
        self._vector: Array = np.empty(0)

    def _begin(self, vector: Array) -> None:
        self._vector, self._sum = vector, self._sums.bring(self._rank, vector)

    def _complete(self) -> bool:
        self._check()
        if self._sum.total is None:
            return False
        self._vector[...] = self._sum.total
        return True
