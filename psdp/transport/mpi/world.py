"""All ranks of an MPI job, at its start and end."""

from __future__ import annotations

import math
import os
import signal
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import NoReturn

import numpy as np

from psdp.errors import PeerLost
from psdp.params import Array
from psdp.transport.backoff import Backoff
from psdp.transport.devices import MemorySpace
from psdp.transport.launchers import survives_failures
from psdp.transport.link import Link
from psdp.transport.mpi import pmix
from psdp.transport.mpi.endpoint import MpiEndpoint
from psdp.transport.mpi.exits import no_exit
from psdp.transport.mpi.library import MPI, library_name
from psdp.transport.mpi.reducer import MpiReducer
from psdp.transport.shared import Neighbours

_LAST_WORDS_S = 0.2
"""How long a launcher gets to read what a rank said before it ends the job."""


@contextmanager
def _together() -> Iterator[None]:
    """What ranks do together before the first message.

    Raises:
        PeerLost: MPI could not do it, as where one of them is gone.
    """
    try:
        yield
    except MPI.Exception as error:
        raise PeerLost(f"a rank was lost before the run had begun ({error})") from error


class MpiWorld:
    """The :class:`psdp.transport.world.World` of MPI_COMM_WORLD.

    Args:
        among: the ranks that exchange, and their communicator; all, if that is not said.
    """

    def __init__(self, among: tuple[Sequence[int], MPI.Intracomm] | None = None) -> None:
        self.comm = MPI.COMM_WORLD
        self.rank = self.comm.rank
        self.size = self.comm.size
        self.ranks, self._exchanging = among or (range(self.size), self.comm)

    @property
    def library(self) -> str:
        """Name and version of the MPI library."""
        return library_name()

    @property
    def host(self) -> str:
        """Name of this rank's host, as MPI knows it."""
        return MPI.Get_processor_name()

    def exchange(self, data: bytes, timeout_s: float = math.inf) -> list[bytes]:
        """Return the bytes of every rank, in rank order; all of them must call this together.

        Raises:
            TimeoutError: not all did within ``timeout_s``. Only :meth:`abort` may follow.
            PeerLost: one of them is gone, and MPI says so. The same may follow.
        """
        with _together():
            return self._gathered(data, time.monotonic() + timeout_s)

    def _gathered(self, data: bytes, deadline_s: float) -> list[bytes]:
        sizes = np.zeros(len(self.ranks), np.int64)
        self._wait(self._exchanging.Iallgather(np.array([len(data)], np.int64), sizes), deadline_s)
        starts = np.concatenate(([0], np.cumsum(sizes)))
        gathered = np.zeros(int(starts[-1]), np.uint8)
        counts = (sizes.tolist(), starts[:-1].tolist())
        own = np.frombuffer(data, np.uint8)
        gathering = self._exchanging.Iallgatherv([own, MPI.BYTE], [gathered, counts, MPI.BYTE])
        self._wait(gathering, deadline_s)
        return [
            gathered[start : start + size].tobytes()
            for start, size in zip(starts[:-1], sizes, strict=True)
        ]

    def among(self, ranks: Sequence[int]) -> MpiWorld:
        """Return the world in which only these ranks, of which this is one, exchange; all of them
        must call this together."""
        with _together():
            return MpiWorld((ranks, self._communicator(ranks)))

    def endpoint(
        self,
        peers: Iterable[int],
        neighbours: Neighbours | None = None,
        link: Link | None = None,
        vectors: MemorySpace | None = None,
    ) -> MpiEndpoint:
        """Return this rank's endpoint for exchanges with ``peers``."""
        return MpiEndpoint(self.comm, peers, neighbours, link, vectors)

    def reducer(self, ranks: Iterable[int]) -> MpiReducer:
        """Return what sums vectors over these ranks, which must call this together."""
        with _together():
            return MpiReducer(self._communicator(ranks))

    def _communicator(self, ranks: Iterable[int]) -> MPI.Intracomm:
        return self.comm.Create_group(self.comm.group.Incl(list(ranks)))

    def echo(self, sent: Array, received: Array) -> None:
        """Send a vector (N,) uint8 of any memory to this rank itself, and wait until it is there.

        An MPI that cannot read that memory may end the process.
        """
        own = MPI.COMM_SELF
        requests = [own.Irecv([received, MPI.BYTE], 0), own.Isend([sent, MPI.BYTE], 0)]
        MPI.Request.Waitall(requests)

    @property
    def survives(self) -> bool:
        """Whether the job goes on when a rank that works is lost."""
        return survives_failures(os.environ)

    def staying(self) -> AbstractContextManager[None]:
        """Return while what this process may not exit without the others that go on seeing it."""
        return no_exit() if self.survives else nullcontext()

    def declare_dead(self, rank: int) -> None:
        """Have MPI take a rank for dead, on all ranks, where the job goes on after failures."""
        if self.survives:
            pmix.declare_dead(rank, self.rank)

    def abort(self, code: int, *, known: bool = False) -> NoReturn:
        """End every rank of the job; or this one, where the job goes on after failures.

        MPICH's launcher drops what it has not yet read of a rank's output when that rank aborts
        (2 of 60 messages were lost), so it gets the time to read. And its MPI_Abort comes back
        while the launcher is still killing (9 of 30 ranks did).

        Where the job goes on after failures (ULFM), an MPI_Abort ends its caller alone, and nobody
        is told, as of any exit status but 0: a rank whose end others are to see kills itself, and
        those that cannot go on without it end in turn, with a status that mpirun then has.
        """
        time.sleep(_LAST_WORDS_S)
        if not self.survives:
            self.comm.Abort(code)
        elif not known:
            os.kill(os.getpid(), signal.SIGKILL)
        os._exit(code)

    def die(self) -> NoReturn:
        """End this rank alone, where the job goes on without it, so that the others see it."""
        self.abort(1)

    def _wait(self, request: MPI.Request, deadline_s: float) -> None:
        backoff = Backoff()
        while not request.Test():
            if time.monotonic() >= deadline_s:
                raise TimeoutError
            backoff.pause(transferring=False)
