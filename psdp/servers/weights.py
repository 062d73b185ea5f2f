"""A server's weights, and the older ones that somebody still reads."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from psdp.params import Array, Zeros
from psdp.transport import Sending


@dataclass
class Lent:
    """A vector (S,) that was sent, and who may still read it."""

    values: Array
    readers: list[Sending]
    name: int | None = None


class Weights:
    """A shard's weights (S,), copied on write: who still sends or copies them keeps what it began
    with.

    So a pull is one version, never a mixture, and no update waits for a slow reader.

    Args:
        zeros: makes the copies.
    """

    def __init__(self, values: Array, zeros: Zeros = np.zeros) -> None:
        self.values = values
        self._zeros = zeros
        self._readers: list[Sending] = []
        self._retired: list[Lent] = []

    def reading(self, sending: Sending) -> None:
        """Note that the present values are read until this is done: as a message that is under
        way, or by a worker on this host that copies them."""
        self._readers.append(sending)

    def writable(self) -> Array:
        """Return the vector to update in place; it is a copy if a message still reads the last."""
        if not _under_way(self._readers):
            self._readers.clear()
            return self.values
        fresh = self._spare()
        fresh[...] = self.values
        self._retired.append(Lent(self.values, self._readers))
        self.values, self._readers = fresh, []
        return self.values

    def beside(self, name: int, fill: Callable[[Array], None]) -> Lent:
        """Return a vector with other values, which is used again once nobody reads it; ``fill``
        writes them, unless they are still there by this name."""
        for lent in self._retired:
            if lent.name == name:
                return lent
        lent = Lent(self._spare(), [], name)
        fill(lent.values)
        self._retired.append(lent)
        return lent

    def _spare(self) -> Array:
        for index, lent in enumerate(self._retired):
            if not _under_way(lent.readers):
                del self._retired[index]
                return lent.values
        return self._zeros(self.values.size, self.values.dtype)


def _under_way(readers: list[Sending]) -> bool:
    return not all(sending.done for sending in readers)
