"""What an endpoint shares with peers on its host, from the start or from later on."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from psdp.params import Array
from psdp.transport.backoff import Backoff
from psdp.transport.bell import BellCard
from psdp.transport.messages import Message, Shares
from psdp.transport.shared import MemoryCard, Neighbours, SharedMemory


class Sharing:
    """This rank's memory and its peers', where both have opened the other's, and the bells by which
    they wake one another.

    A rank that is called later makes its memory known then (:meth:`begin`). Each of two tells once
    that it has opened the other's; from when it hears the same, its vectors need not travel.

    Args:
        neighbours: what is shared from the start.
        send: to a peer.
    """

    def __init__(self, neighbours: Neighbours, send: Callable[[int, Message], object]) -> None:
        self._neighbours = neighbours
        self._send = send
        self._silent: set[int] = set()
        """Peers that do not ring when they send. Who has sent nothing so far, as a spare rank, need
        not ring."""

    @property
    def begun(self) -> bool:
        """Whether this rank shares memory with any."""
        return self._neighbours.shares

    def begin(self, memory: SharedMemory, peers: Iterable[int]) -> None:
        """Share this rank's memory from now on, with those of these peers that can open it and
        whose memory can be opened here."""
        self._neighbours.share(memory)
        for peer in peers:
            self._tell(peer, opened=False)

    def _tell(self, peer: int, *, opened: bool) -> None:
        card = self._neighbours.card
        assert card is not None
        bell = card.bell
        how = bell.pid, bell.file, bell.pipe, card.file, card.name, card.capacity
        self._send(peer, Shares(*how, opened))

    def told(self, peer: int, message: Shares) -> None:
        """A peer shares its memory."""
        bell = BellCard(message.pid, message.bell, message.pipe)
        card = MemoryCard(bell, message.file, message.name, message.capacity, 0)
        if self._neighbours.open(peer, card):
            self._tell(peer, opened=True)
        if message.opened:
            self._neighbours.seen_by(peer)
            if self._neighbours.rings(peer):
                self._silent.discard(peer)

    def arrived(self, peer: int) -> None:
        """Something came from a peer."""
        if not self._neighbours.rings(peer):
            self._silent.add(peer)

    def lost(self, peer: int) -> None:
        """Nothing comes from a peer any more."""
        self._silent.discard(peer)

    def offset(self, peer: int, raw: Array) -> int:
        """Return where a peer finds these bytes, or FOLLOWS if it cannot see them."""
        return self._neighbours.offset(peer, raw)

    def bytes_at(self, peer: int, offset: int, count: int) -> Array:
        """Return bytes of a peer's memory.

        Raises:
            ProtocolError: they are not all in it.
        """
        return self._neighbours.bytes_at(peer, offset, count)

    def ring(self, peer: int) -> None:
        """Wake a peer, if it listens to us."""
        self._neighbours.ring(peer)

    def backoff(self) -> Backoff:
        """Return how this rank waits for its peers."""
        listen = self._neighbours.listen
        return Backoff(listen, all_ring=listen is not None and not self._silent)
