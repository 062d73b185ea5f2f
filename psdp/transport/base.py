"""What every transport offers: messages with a vector, which moves only where it must."""

from __future__ import annotations

import math
import time
from abc import ABC, abstractmethod
from collections import defaultdict, deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from psdp.errors import ProtocolError
from psdp.params import Array
from psdp.transport.devices import HostMemory, MemorySpace
from psdp.transport.headers import FOLLOWS, MAX_HEADER_BYTES, Header, encode
from psdp.transport.landing import Landing, as_bytes, landing_bytes, no_landing
from psdp.transport.link import Link
from psdp.transport.messages import OF_ANY_TERM, Answer, Begun, Message, Shares, Taken
from psdp.transport.sense import Sense
from psdp.transport.shared import Neighbours, same_memory
from psdp.transport.sharing import Sharing


@dataclass(frozen=True, slots=True)
class Arrival:
    """A message of a peer; its payload, if any, has wholly landed."""

    peer: int
    message: Message


@dataclass(frozen=True, slots=True)
class Lost:
    """A peer is gone; nothing more will come from it or reach it."""

    peer: int
    why: str


class Sending:
    """A message on its way. Its payload must not be written before ``done``."""

    __slots__ = ("done",)

    def __init__(self) -> None:
        self.done = False


class Endpoint(ABC):
    """One rank's side of the network. Messages of a peer arrive in the order it sent them.

    A payload that its receiver can see in shared memory does not travel: the header says where it
    lies. Weights are then copied to their landing, which the receiver confirms (:class:`Taken`);
    a gradient's landing is the sender's own memory, so nothing moves at all. Other payloads go as
    messages, to the same landings.

    Args:
        peers: ranks that this one exchanges messages with.
        neighbours: those of them on this host, and what is shared with them.
        link: what messages leave through, if they are to be slow.
        vectors: where payloads and their landings lie, if not in the host's memory; may be changed
            before the first payload.

    Attributes:
        rank: of this endpoint.
        landing: set by the owner before the first payload can come.
        sense: set by the owner, who then hears nothing that makes none in its job.
        landing_s: seconds so far in which payloads were landing here.
        sharing: what this rank shares with peers on its host.
        term: what peers have sent before they began it does not arrive any more, and what is sent
            to them now does not arrive before.
    """

    def __init__(
        self,
        rank: int,
        peers: Iterable[int],
        neighbours: Neighbours | None = None,
        link: Link | None = None,
        vectors: MemorySpace | None = None,
    ) -> None:
        self.rank = rank
        self.landing: Landing = no_landing
        self.sense: Sense | None = None
        self.landing_s, self.term = 0.0, 0
        self.sharing = Sharing(neighbours or Neighbours(), self.send)
        self._link = link
        self.vectors = vectors or HostMemory()
        self._terms = dict.fromkeys(peers, 0)
        """Of each peer, the term that it has begun."""
        self._ahead = defaultdict[int, list[tuple[Message, Array | None, Sending]]](list)
        """What peers are to get once they have begun this rank's term."""
        self._most_bytes = 0
        """Of a payload that does not arrive."""
        self._lent: defaultdict[int, deque[Sending]] = defaultdict(deque)
        self._gone: set[int] = set()
        self._unrung: set[int] = set()

    def send(
        self,
        peer: int,
        message: Message,
        payload: Array | None = None,
        sending: Sending | None = None,
    ) -> Sending:
        """Start sending a header and the raw memory of a contiguous vector; never wait. Return
        ``sending``, or a new one.

        A peer on this host is woken when this rank next looks for messages, or by :meth:`wake`: a
        peer that runs while others are still to be sent to could take this rank's core.
        """
        raw = None if payload is None else as_bytes(payload)
        if raw is not None:
            # Who is told of a vector may read it, and write whatever else was used to make it.
            self.vectors.synchronize()
        sending = sending or Sending()
        if self._link is None:
            self._dispatch(peer, message, raw, sending)
        else:
            size = MAX_HEADER_BYTES // 8 + (0 if raw is None else raw.nbytes)
            self._link.post(size, lambda: self._dispatch(peer, message, raw, sending))
        return sending

    def _dispatch(self, peer: int, message: Message, raw: Array | None, sending: Sending) -> None:
        if self._terms.get(peer, 0) < self.term and not isinstance(message, OF_ANY_TERM):
            if peer in self._gone:
                sending.done = True
            else:
                self._ahead[peer].append((message, raw, sending))
            return
        offset = FOLLOWS if raw is None else self.sharing.offset(peer, raw)
        header = encode(message, 0 if raw is None else raw.nbytes, offset)
        if offset != FOLLOWS and isinstance(message, Answer) and peer not in self._gone:
            self._lent[peer].append(sending)
            self._post(peer, header, None, Sending())
        else:
            self._post(peer, header, raw if offset == FOLLOWS else None, sending)
        self._unrung.add(peer)

    def wake(self) -> None:
        """Wake the peers on this host that were sent something: this rank is to be busy."""
        while self._unrung:
            self.sharing.ring(self._unrung.pop())

    @abstractmethod
    def poll(self) -> Arrival | Lost | None:
        """Move transfers on; return the next thing that happened, or None if there is nothing.

        Raises:
            ProtocolError: a header that is none, or whose payload does not fit its landing.
        """

    @abstractmethod
    def transferring(self) -> bool:
        """Say whether a payload is on its way in or out as a message."""

    @abstractmethod
    def close(self) -> None:
        """Wait a little for what is on its way, then listen no more."""

    def meet(self, peers: Iterable[int]) -> None:
        """Exchange messages with these peers too from now on."""
        for peer in peers:
            if peer != self.rank and peer not in self._terms:
                self._terms[peer] = 0
                self._listen_to(peer)

    @abstractmethod
    def _listen_to(self, peer: int) -> None:
        """Take what a peer sends from now on, or has sent."""

    def begin(self, term: int, most_bytes: int) -> None:
        """Begin a term: what was sent in earlier ones, with payloads of so many bytes at most, is
        void, here and at all peers that begin it."""
        self.term, self._most_bytes = term, most_bytes
        for peer in self._terms:
            # Who still copies what was lent is to make nothing of it.
            self._drop(peer)
            if peer not in self._gone:
                self.send(peer, Begun(term))

    @property
    def lost(self) -> frozenset[int]:
        """The peers that are known to be gone."""
        return frozenset(self._gone)

    def has_lost(self, peer: int) -> bool:
        """Say whether a peer is known to be gone."""
        return peer in self._gone

    def receive(self, timeout_s: float) -> Arrival | Lost | None:
        """Return the next thing that happens within ``timeout_s``, or None; sleep meanwhile."""
        backoff = self.sharing.backoff()
        deadline = time.monotonic() + timeout_s
        while (event := self._look()) is None:
            if time.monotonic() >= deadline:
                return None
            backoff.pause(self.transferring(), self._next_s())
        return event

    def flush(
        self, sendings: Sequence[Sending], timeout_s: float = float("inf")
    ) -> list[Arrival | Lost]:
        """Wait until these are done, or for so long; return what happened meanwhile, in order."""
        events: list[Arrival | Lost] = []
        backoff = self.sharing.backoff()
        deadline = time.monotonic() + timeout_s
        while not all(sending.done for sending in sendings) and time.monotonic() < deadline:
            event = self._look()
            if event is not None:
                events.append(event)
            else:
                backoff.pause(self.transferring(), self._next_s())
        return events

    # What the transports below share

    @abstractmethod
    def _post(self, peer: int, header: bytes, raw: Array | None, sending: Sending) -> None:
        """Start sending a header, and after it these bytes if there are any; never wait."""

    def _arrived(self, peer: int, header: Header) -> Arrival | None:
        """Take a message whose payload, if any, lies in shared memory; None if it was between
        the endpoints only."""
        message, payload_bytes, offset = header
        self.sharing.arrived(peer)
        if isinstance(message, Begun):
            self._terms[peer] = message.term
            for kept in self._ahead.pop(peer, ()):
                self._dispatch(peer, *kept)
            return None
        if isinstance(message, Shares):
            self.sharing.told(peer, message)
            return None
        if self._is_void(peer, message):
            return None
        if isinstance(message, Taken):
            self._confirmed(peer)
            return None
        if offset != FOLLOWS:
            source = self.sharing.bytes_at(peer, offset, payload_bytes)
            target = landing_bytes(self.landing, peer, message, payload_bytes)
            if not same_memory(source, target):
                begin_s = time.monotonic()
                self.vectors.copy(source, target)
                self.vectors.synchronize()
                self.landing_s += time.monotonic() - begin_s
            if isinstance(message, Answer):
                self.send(peer, Taken())
        return Arrival(peer, message)

    def _is_void(self, peer: int, message: Message) -> bool:
        return self._terms.get(peer, 0) < self.term and not isinstance(message, OF_ANY_TERM)

    def _landing_bytes(self, peer: int, header: Header) -> Array:
        """Return where the payload of a message goes that follows its header.

        Raises:
            ProtocolError: it is not of the size that is expected.
        """
        message, payload_bytes, _ = header
        if not self._is_void(peer, message):
            return landing_bytes(self.landing, peer, message, payload_bytes)
        if payload_bytes > self._most_bytes:
            raise ProtocolError(
                f"rank {peer} announced {payload_bytes} bytes with {type(message).__name__} of a "
                f"term that is over, expected at most {self._most_bytes}"
            )
        return np.empty(payload_bytes, np.uint8)

    def _look(self) -> Arrival | Lost | None:
        if self._link is not None:
            self._link.release()
        event = self.poll()
        if isinstance(event, Arrival) and self.sense is not None:
            self.sense.check(event.peer, event.message)
        self.wake()
        return event

    def _confirmed(self, peer: int) -> None:
        if not self._lent[peer]:
            raise ProtocolError(f"rank {peer} took weights from shared memory that none lent it")
        self._lent[peer].popleft().done = True

    def _forget(self, peer: int) -> None:
        """A peer is gone: it reads nothing any more."""
        self._gone.add(peer)
        self.sharing.lost(peer)
        self._drop(peer)

    def _drop(self, peer: int) -> None:
        """What was lent to a peer, or is kept for it, is void."""
        kept = (sending for _, _, sending in self._ahead.pop(peer, ()))
        for sending in (*self._lent.pop(peer, ()), *kept):
            sending.done = True

    def _next_s(self) -> float:
        return math.inf if self._link is None else self._link.next_s()
