"""This rank's endpoint: non-blocking calls on raw buffers, nothing pickled.

One header receive is always posted for every peer. A header that announces a payload is followed
by the payload's chunks, received straight into their landing, and only then is the next header of
that peer looked at.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterable
from dataclasses import dataclass, field

from psdp.errors import ProtocolError
from psdp.params import Array
from psdp.transport.base import Arrival, Endpoint, Lost, Sending
from psdp.transport.devices import MemorySpace
from psdp.transport.headers import MAX_HEADER_BYTES, Header, decode, has_payload
from psdp.transport.link import Link
from psdp.transport.mpi.library import MPI
from psdp.transport.shared import Neighbours

_HEADER_TAG, _PAYLOAD_TAG = 1, 2
CHUNK_BYTES = 1 << 30
CLOSE_S = 1.0
"""How long the end of an endpoint waits for what is still on its way."""


@dataclass
class _Outgoing:
    """A message on its way; holds the memory that MPI still reads."""

    peer: int
    header: bytes
    requests: list[MPI.Request]
    sending: Sending
    payload: Array | None = None


@dataclass
class _Incoming:
    """A payload on its way in: the chunks still to come."""

    header: Header
    rest: list[Array] = field(default_factory=list)


class MpiEndpoint(Endpoint):
    """This rank's endpoint in ``comm``, for exchanges with ``peers``."""

    def __init__(
        self,
        comm: MPI.Intracomm,
        peers: Iterable[int],
        neighbours: Neighbours | None = None,
        link: Link | None = None,
        vectors: MemorySpace | None = None,
        chunk_bytes: int = CHUNK_BYTES,
    ) -> None:
        peers = list(peers)
        super().__init__(comm.rank, peers, neighbours, link, vectors)
        self._comm = comm
        self._peers: list[int] = []
        comm.Set_errhandler(MPI.ERRORS_RETURN)
        self._chunk_bytes = chunk_bytes
        self._headers: dict[int, bytearray] = {}
        self._incoming: dict[int, _Incoming] = {}
        self._incoming_since_s = 0.0
        self._outgoing: list[_Outgoing] = []
        self._unsent: list[_Outgoing] = []
        self._lost: list[Lost] = []
        self._status = MPI.Status()
        self._requests: list[MPI.Request] = []
        for peer in peers:
            self._listen_to(peer)

    def _post(self, peer: int, header: bytes, raw: Array | None, sending: Sending) -> None:
        outgoing = _Outgoing(peer, header, [], sending, raw)
        if peer in self._gone:
            # Lost already; there is nobody to send to.
            sending.done = True
            return
        try:
            outgoing.requests.append(
                self._comm.Isend([header, MPI.BYTE], dest=peer, tag=_HEADER_TAG)
            )
            for chunk in () if raw is None else self._chunks(raw):
                outgoing.requests.append(
                    self._comm.Isend([chunk, MPI.BYTE], dest=peer, tag=_PAYLOAD_TAG)
                )
            self._outgoing.append(outgoing)
        except MPI.Exception as error:
            self._lose(peer, error)
            sending.done = True

    def poll(self) -> Arrival | Lost | None:
        event: Arrival | None = None
        while event is None:
            try:
                index, complete = MPI.Request.Testany(self._requests, self._status)
            except MPI.Exception as error:
                self._receive_failed(error)
                break
            if not complete or index == MPI.UNDEFINED:
                break
            event = self._advance(index)
        # After the receives, so that whoever acts on an arrival knows which sends are over.
        self._reap()
        if event is not None:
            return event
        return self._lost.pop(0) if self._lost else None

    def transferring(self) -> bool:
        return bool(self._incoming) or any(o.payload is not None for o in self._outgoing)

    def close(self) -> None:
        """Wait a little for what is on its way, then withdraw the receives that are still posted,
        so that MPI can be finalised."""
        deadline = time.monotonic() + CLOSE_S
        while self._sending() and time.monotonic() < deadline:
            self.receive(timeout_s=0.01)
        posted = [request for request in self._requests if request != MPI.REQUEST_NULL]
        for request in posted:
            request.Cancel()
        # One that has begun to receive cannot be withdrawn; from a host that is cut off it has no
        # end, and an MPI that survives that is not finalised.
        deadline = time.monotonic() + CLOSE_S
        while not MPI.Request.Testall(posted) and time.monotonic() < deadline:
            time.sleep(1e-3)

    def _sending(self) -> bool:
        waits = self._next_s() < math.inf
        return waits or bool(self._outgoing) or any(self._lent.values())

    def _chunks(self, raw: Array) -> list[Array]:
        return [raw[at : at + self._chunk_bytes] for at in range(0, raw.size, self._chunk_bytes)]

    def _listen_to(self, peer: int) -> None:
        self._peers.append(peer)
        self._headers[peer] = bytearray(MAX_HEADER_BYTES)
        self._requests.append(MPI.REQUEST_NULL)
        try:
            self._post_header(len(self._peers) - 1)
        except MPI.Exception as error:
            self._lose(peer, error)

    def _post_header(self, index: int) -> None:
        peer = self._peers[index]
        self._requests[index] = self._comm.Irecv(
            [self._headers[peer], MPI.BYTE], source=peer, tag=_HEADER_TAG
        )

    def _post_chunk(self, index: int, incoming: _Incoming) -> None:
        self._requests[index] = self._comm.Irecv(
            [incoming.rest.pop(0), MPI.BYTE], source=self._peers[index], tag=_PAYLOAD_TAG
        )

    def _advance(self, index: int) -> Arrival | None:
        """A header or a chunk of this peer is complete: post what comes next of it."""
        peer = self._peers[index]
        incoming = self._incoming.get(peer)
        if incoming is None:
            raw = memoryview(self._headers[peer])[: self._status.Get_count(MPI.BYTE)]
            incoming = self._expect(peer, decode(raw, peer))
        if incoming.rest:
            self._post_chunk(index, incoming)
            return None
        self._landed(peer)
        self._post_header(index)
        return self._arrived(peer, incoming.header)

    def _expect(self, peer: int, header: Header) -> _Incoming:
        """Note which chunks follow a header, if any do."""
        incoming = _Incoming(header)
        if has_payload(header):
            target = self._landing_bytes(peer, header)
            incoming.rest = self._chunks(target)
            self.vectors.synchronize()  # what was there may still be read
            if not self._incoming:
                self._incoming_since_s = time.monotonic()
            self._incoming[peer] = incoming
        return incoming

    def _landed(self, peer: int) -> None:
        """Nothing more of a payload comes from this peer."""
        if self._incoming.pop(peer, None) and not self._incoming:
            self.landing_s += time.monotonic() - self._incoming_since_s

    def _reap(self) -> None:
        still: list[_Outgoing] = []
        for outgoing in self._outgoing:
            if outgoing.peer in self._gone:
                continue  # it is among the unsent
            try:
                complete = MPI.Request.Testall(outgoing.requests)
            except MPI.Exception as error:
                self._lose(outgoing.peer, error)
                complete = True
            outgoing.sending.done = complete
            if not complete:
                still.append(outgoing)
        self._outgoing = still

    def _receive_failed(self, error: MPI.Exception) -> None:
        """MPI does not say which receives failed, but it has freed those: one, or several of peers
        that went at the same time."""
        freed = [
            peer
            for peer, request in zip(self._peers, self._requests, strict=True)
            if peer not in self._gone and request == MPI.REQUEST_NULL
        ]
        for peer in freed:
            if error.Get_error_class() == MPI.ERR_TRUNCATE:
                raise ProtocolError(
                    f"rank {peer} sent more bytes than a header ({MAX_HEADER_BYTES}) or the "
                    "rest of the payload that it announced"
                ) from error
            self._lose(peer, error)
        if not freed:
            self._find_lost()

    def _find_lost(self) -> None:
        for index, peer in enumerate(self._peers):
            request = self._requests[index]
            if request == MPI.REQUEST_NULL:
                continue
            try:
                request.Test()
            except MPI.Exception as error:
                self._lose(peer, error)

    def _lose(self, peer: int, error: MPI.Exception) -> None:
        if peer not in self._gone:
            self._forget(peer)
            self._landed(peer)
            self._requests[self._peers.index(peer)] = MPI.REQUEST_NULL
            # What is under way to it may never end: nobody waits for that, but MPI may read it yet.
            ending = [outgoing for outgoing in self._outgoing if outgoing.peer == peer]
            for outgoing in ending:
                outgoing.sending.done = True
            self._unsent += ending
            self._lost.append(Lost(peer, str(error)))
