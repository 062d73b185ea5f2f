"""Updates as messages: what is decided is told in parts, as much at once as a message holds."""

from __future__ import annotations

from collections.abc import Iterator

from psdp.errors import ProtocolError
from psdp.protocol.order import Update
from psdp.transport import messages as m
from psdp.transport.headers import MOST_INCLUDED


def messages_of(update: Update) -> Iterator[m.Include | m.ApplyMean]:
    """Yield the messages that tell of an update."""
    for start in range(0, len(update.slots), MOST_INCLUDED):
        part = slice(start, start + MOST_INCLUDED)
        yield m.Include(update.slots[part], update.weights[part])
    yield m.ApplyMean(update.version, update.rate)


class Hearing:
    """Puts together what one rank tells."""

    def __init__(self, rank: int) -> None:
        self._rank = rank
        self._included: list[tuple[int, float]] = []

    def hear(self, message: m.Include | m.ApplyMean) -> Update | None:
        """Return the update that a message is the last of; None if more are to come.

        Raises:
            ProtocolError: it is the last of none.
        """
        match message:
            case m.Include(slots, weights):
                self._included += zip(slots, weights, strict=True)
                return None
            case m.ApplyMean(version, rate):
                if not self._included:
                    raise ProtocolError(f"rank {self._rank} sent {message} after no Include")
                some, shares = zip(*self._included, strict=True)
                self._included.clear()
                return Update(version, some, shares, rate)
