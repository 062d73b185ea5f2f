"""The MPI transport: importing it loads and initialises MPI."""

from psdp.transport.mpi.endpoint import MpiEndpoint
from psdp.transport.mpi.reducer import MpiReducer
from psdp.transport.mpi.world import MpiWorld

__all__ = ["MpiEndpoint", "MpiReducer", "MpiWorld"]
