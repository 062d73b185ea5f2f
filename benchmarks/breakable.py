"""``python -m psdp.worker``, which fails in the way that a signal asks for.

What a process does to itself, a signal from outside does not: end by an exit, raise, run out of
memory, find the disk full. Here the first four real-time signals do these.
"""

from __future__ import annotations

import os
import resource
import signal
import sys
from collections.abc import Callable
from types import FrameType
from typing import NoReturn

from psdp.worker import main

EXIT, RAISE, NO_MEMORY, NO_SPACE = (signal.SIGRTMIN + number for number in range(4))
EXIT_STATUS = 3


class Broken(RuntimeError):
    """Raised because a signal asked for it."""


def leave() -> NoReturn:
    """End at once, with nothing said or closed."""
    os._exit(EXIT_STATUS)


def fail() -> NoReturn:
    """Raise wherever the program is."""
    raise Broken("broken on purpose")


def run_out_of_memory() -> None:
    """Let no allocation succeed any more."""
    resource.setrlimit(resource.RLIMIT_AS, (0, resource.RLIM_INFINITY))
    bytearray(1 << 26)


def run_out_of_space() -> None:
    """Let no file take another byte."""
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, resource.RLIM_INFINITY))


WAYS: dict[int, Callable[[], object]] = {
    EXIT: leave,
    RAISE: fail,
    NO_MEMORY: run_out_of_memory,
    NO_SPACE: run_out_of_space,
}


def _heed(number: int, _frame: FrameType | None) -> None:
    WAYS[number]()


if __name__ == "__main__":
    for number in WAYS:
        signal.signal(number, _heed)
    sys.exit(main())
