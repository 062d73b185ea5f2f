"""All ranks of a job, as one of them sees them before the first message and at the end.

MPI's is in mpi.py, its in-memory twin in in_memory_world.py.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import NoReturn, Protocol

from psdp.transport.base import Endpoint
from psdp.transport.devices import MemorySpace
from psdp.transport.link import Link
from psdp.transport.reducer import Reducer
from psdp.transport.shared import Neighbours


class Gone(BaseException):
    """This rank is no more, where ranks are threads and none can be ended from outside: whatever it
    does next, it is told so, and is to do and say nothing else."""


class World(Protocol):
    """All ranks of the job; while they train, only endpoints and reducers speak."""

    @property
    def rank(self) -> int:
        """This rank's number, from 0."""

    @property
    def size(self) -> int:
        """How many ranks there are."""

    @property
    def ranks(self) -> Sequence[int]:
        """Those that exchange, rising."""

    @property
    def host(self) -> str:
        """Name of this rank's host; ranks of equal names may share memory and cores."""

    @property
    def library(self) -> str:
        """Name and version of what carries the messages."""

    def exchange(self, data: bytes, timeout_s: float = math.inf) -> list[bytes]:
        """Return the bytes of every rank, in rank order; all of them must call this together.

        Raises:
            TimeoutError: not all did within ``timeout_s``. Only :meth:`abort` may follow.
            PeerLost: one of them is gone, and MPI says so. The same may follow.
        """

    def among(self, ranks: Sequence[int]) -> World:
        """Return the world in which only these ranks, of which this is one, exchange; all of them
        must call this together."""

    def endpoint(
        self,
        peers: Iterable[int],
        neighbours: Neighbours | None = None,
        link: Link | None = None,
        vectors: MemorySpace | None = None,
    ) -> Endpoint:
        """Return this rank's endpoint for exchanges with ``peers``."""

    def reducer(self, ranks: Iterable[int]) -> Reducer:
        """Return what sums vectors over these ranks, which must call this together."""

    @property
    def survives(self) -> bool:
        """Whether the job goes on when a rank that works is lost."""

    def abort(self, code: int, *, known: bool = False) -> NoReturn:
        """End this rank with this exit status, and every other that cannot go on without it.

        Args:
            known: the others know already why; they need not see this one's end.
        """

    def die(self) -> NoReturn:
        """End this rank alone, where the job goes on without it, so that the others see it."""
