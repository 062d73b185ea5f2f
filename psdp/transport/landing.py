"""Where the payload of a message lands: in a vector of its size, or in room for it."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from psdp.errors import ProtocolError
from psdp.params import Array
from psdp.transport.messages import Message


class Room:
    """Where payloads land that may be shorter than it: at the beginning of a vector (N,).

    Attributes:
        payload: what landed last, a part of ``vector``; all of it before anything has.
    """

    def __init__(self, vector: Array) -> None:
        self.vector = self.payload = vector

    def take(self, payload_bytes: int) -> bool:
        """Make ``payload`` so large; say whether it can be."""
        items, rest = divmod(payload_bytes, self.vector.itemsize)
        if rest or items > self.vector.size:
            return False
        self.payload = self.vector[:items]
        return True


Landing = Callable[[int, Message], Array | Room]
"""Names the vector into which the payload of a peer's message is received, or the room for it."""


def landing_bytes(landing: Landing, peer: int, message: Message, payload_bytes: int) -> Array:
    """Return the bytes (payload_bytes,) of the vector into which a payload may land.

    Raises:
        ProtocolError: the payload is not of the size that is expected there.
    """
    target = landing(peer, message)
    if isinstance(target, Room):
        fits, expected = target.take(payload_bytes), f"at most {target.vector.nbytes}"
        target = target.payload
    else:
        fits, expected = target.nbytes == payload_bytes, str(target.nbytes)
    if not fits:
        raise ProtocolError(
            f"rank {peer} announced {payload_bytes} bytes with {type(message).__name__}, "
            f"expected {expected}: do all ranks run the same settings?"
        )
    return as_bytes(target)


def as_bytes(vector: Array) -> Array:
    """Return a contiguous vector's memory as uint8, without a copy."""
    assert vector.flags.c_contiguous
    assert vector.ndim == 1
    return vector.view(np.uint8)


def no_landing(peer: int, message: Message) -> Array | Room:
    raise ProtocolError(f"rank {peer} sent a payload with {type(message).__name__}; none expected")
