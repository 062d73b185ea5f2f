"""The process of an mpirun: it starts out of reach of the terminal, and ends with the launcher."""

from __future__ import annotations

import ctypes
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path


def start(command: Sequence[str], environment: Mapping[str, str]) -> subprocess.Popen[bytes]:
    """Start a command that a Ctrl-C at this terminal does not reach, and that ends with this
    process."""
    # In the background of a terminal, who reads from it is stopped.
    at_terminal = sys.stdin is None or sys.stdin.isatty()
    return subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL if at_terminal else None,
        env=os.environ | environment,
        preexec_fn=_end_with(os.getpid()),  # no thread is running here
    )


def remove_session(pid: int) -> None:
    """Remove the files that an mpirun of Open MPI leaves if it is killed: they would be in the way
    of the next one that gets its process id."""
    shutil.rmtree(Path(tempfile.gettempdir()) / f"ompi.{pid}", ignore_errors=True)


def _end_with(parent: int) -> Callable[[], None]:
    """Return what a child does before it becomes another program."""
    libc = ctypes.CDLL(None) if sys.platform == "linux" else None

    def prepare() -> None:
        os.setpgid(0, 0)
        if libc is not None:
            libc.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
            if os.getppid() != parent:  # it has gone already
                os.kill(os.getpid(), signal.SIGTERM)

    return prepare


_PR_SET_PDEATHSIG = 1
