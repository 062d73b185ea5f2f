"""Exits that nobody expects, where MPI goes on after failures.

Open MPI tells the other ranks of one that a signal ends, but not of one that ends by an exit with a
status other than 0.
"""

from __future__ import annotations

import ctypes
import signal
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def no_exit() -> Iterator[None]:
    """Have SIGKILL end this process should it exit, as C code of a library may have it do, until
    this is left in order.

    That is too late for :func:`os._exit` and its like, which psdp.launch sees.
    """
    # Who registers later is called first. A number that is passed for a pointer arrives as one:
    # raise(SIGKILL).
    _call_at_exit("__cxa_atexit", "raise", signal.SIGKILL, None)
    yield
    _call_at_exit("on_exit", "_exit", None)  # with the status that it is given


def _call_at_exit(register: str, name: str, *arguments: int | None) -> None:
    """Have a function of the C library called when this process exits.

    Raises:
        MemoryError: there is no room to note it.
    """
    libc = ctypes.CDLL(None)
    function = ctypes.cast(libc[name], ctypes.c_void_p)
    if libc[register](function, *map(ctypes.c_void_p, arguments)):
        raise MemoryError(f"no room for {name} among what is called at the exit")
