"""Sums over ranks that need no server: what every way to make them offers."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod

from psdp.params import Array
from psdp.transport.backoff import Backoff

PATIENCE_S = 5e-3
"""How long a sum may stand still before who waits for it sleeps: longer than a piece of it takes,
and short beside a step, since this core may be what a slower rank needs."""


class Reducer(ABC):
    """Adds up vectors of some ranks, one sum at a time; all of them must take part in each.

    The sum has the same bits on all ranks.

    Attributes:
        operation: what MPI calls it.
    """

    operation = "Allreduce"

    def __init__(self) -> None:
        self._moves()

    def begin(self, vector: Array) -> None:
        """Start to replace ``vector`` (P,) by its sum over all ranks; never wait. It belongs to
        the reducer until :meth:`wait` says that the sum is there."""
        self._moves()
        self._begin(vector)

    def wait(self, timeout_s: float) -> bool:
        """Wait until the sum is there, or for so long; say whether it is.

        Raises:
            PeerLost: the transport says that it will never be there.
        """
        deadline = time.monotonic() + timeout_s
        while not self._complete():
            if time.monotonic() >= deadline:
                return False
            self._backoff.pause(transferring=True)
        return True

    def _moves(self) -> None:
        """Note that something was added up just now: more will soon be."""
        self._backoff = Backoff(patience_s=PATIENCE_S)

    @abstractmethod
    def _begin(self, vector: Array) -> None:
        """Start a sum."""

    @abstractmethod
    def _complete(self) -> bool:
        """Move the sum on; say whether it is there."""
