"""Processes on this host, as far as the system shows them, and whether this one does anything."""

from __future__ import annotations

import math
import os
import signal
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import suppress
from pathlib import Path
from typing import TypeVar

T = TypeVar("T")

LOOK_UP_S = 0.25
"""How often a thread that waits looks up from that at least."""


def environment_of(pid: int) -> Mapping[str, str]:
    """Return the environment with which a process began; nothing of one that has ended, or is none
    of ours."""
    try:
        raw = Path(f"/proc/{pid}/environ").read_bytes()
    except OSError:
        return {}
    pairs = (os.fsdecode(entry).partition("=") for entry in raw.split(b"\0") if entry)
    return {name: value for name, _, value in pairs}


class MainThread:
    """Whether the main thread of this process does anything at all, on systems that tell.

    It computes, or looks up from what it waits for (:func:`patiently`): either takes time of a
    core. One that hangs, in a deadlock or on a file system that does not answer, takes none.
    """

    def __init__(self) -> None:
        ident = threading.main_thread().ident
        if ident is None or not hasattr(time, "pthread_getcpuclockid"):
            self._clock = None
        else:
            self._clock = time.pthread_getcpuclockid(ident)
        self._last_s = -1.0

    def has_moved(self) -> bool:
        """Say whether it has done something since the last call."""
        if self._clock is None:
            return True
        last_s, self._last_s = self._last_s, time.clock_gettime(self._clock)
        return self._last_s != last_s


def patiently(wait: Callable[[float], bool], timeout_s: float = math.inf) -> bool:
    """Wait for so long at most, and look up now and then; say whether it came.

    Args:
        wait: waits for what is to come for so many seconds at most; returns whether it came.
    """
    end_s = time.monotonic() + timeout_s
    while not wait(min(LOOK_UP_S, max(0.0, end_s - time.monotonic()))):
        if time.monotonic() >= end_s:
            return False
    return True


def on_threads(count: int, calls: Iterable[Callable[[], T]]) -> list[T]:
    """Return what all of these return, of which so many threads make one each at a time, while this
    one looks up now and then. What one of them raises is raised, and the rest is not begun.
    """

    def result_of(made: Future[T]) -> T:
        patiently(lambda timeout_s: bool(wait([made], timeout_s).done))
        return made.result()

    with ThreadPoolExecutor(count) as pool:
        ahead = [pool.submit(call) for call in calls]
        try:
            return [result_of(made) for made in ahead]
        finally:
            for made in ahead:
                made.cancel()


def kill_all(pid: int) -> None:
    """Kill a process and all that it has started on this host."""
    for one in (pid, *descendants(pid)):
        with suppress(ProcessLookupError):
            os.kill(one, signal.SIGKILL)


def descendants(pid: int) -> list[int]:
    """Return the processes below one, as far as this system shows them."""
    below: dict[int, list[int]] = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError, ValueError):
            # pid (name) state ppid ...; the name may hold blanks and brackets
            parent = int(stat.read_text().rpartition(")")[2].split()[1])
            below.setdefault(parent, []).append(int(stat.parent.name))
    found: list[int] = []
    ahead = [pid]
    while ahead:
        children = below.get(ahead.pop(), [])
        found += children
        ahead += children
    return found
