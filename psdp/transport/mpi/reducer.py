"""Sums over the ranks of an MPI communicator."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from psdp.errors import PeerLost
from psdp.params import Array
from psdp.transport.mpi.library import MPI
from psdp.transport.reducer import Reducer

PIECE_BYTES = 1 << 20
"""Of a sum, in one Iallreduce. Measured with Open MPI 5 on one host: 40 MB of 2 workers take 38 ms
whole, 25 ms in such pieces; of 4 workers 55 and 33 ms (a blocking Allreduce: 18 and 48 ms)."""
PIECES_AT_ONCE = 32
"""How many of them are under way: MPI holds memory of that size meanwhile."""


class MpiReducer(Reducer):
    """Sums over all ranks of ``comm``, whose calls must come in the same order on each.

    Args:
        piece_bytes: how much of a vector one collective call sums up.
    """

    def __init__(self, comm: MPI.Intracomm, piece_bytes: int = PIECE_BYTES) -> None:
        super().__init__()
        self._comm = comm
        comm.Set_errhandler(MPI.ERRORS_RETURN)
        self._piece_bytes = piece_bytes
        self._rest: Iterator[Array] = iter(())
        self._requests: list[MPI.Request] = []
        self._free: Sequence[int] = ()

    def _begin(self, vector: Array) -> None:
        assert vector.ndim == 1
        count = max(1, self._piece_bytes // vector.itemsize)
        self._rest = (vector[at : at + count] for at in range(0, vector.size, count))
        self._requests = [MPI.REQUEST_NULL] * PIECES_AT_ONCE
        self._free = range(PIECES_AT_ONCE)
        self._complete()

    def _complete(self) -> bool:
        try:
            self._post(self._free)
            while free := MPI.Request.Testsome(self._requests):
                self._moves()
                self._post(free)
        except MPI.Exception as error:
            raise PeerLost(f"the workers' Allreduce failed ({error})") from error
        self._free = ()
        return free is None

    def _post(self, indices: Sequence[int]) -> None:
        """Start on the next pieces, as far as there are any, with the requests of these indices."""
        for index, piece in zip(indices, self._rest, strict=False):
            self._requests[index] = self._comm.Iallreduce(MPI.IN_PLACE, piece, op=MPI.SUM)
