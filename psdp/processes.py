"""Processes on this host, as far as the system shows them."""

from __future__ import annotations

import os
import signal
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path


def environment_of(pid: int) -> Mapping[str, str]:
    """Return the environment with which a process began; nothing of one that has ended, or is none
    of ours."""
    try:
        raw = Path(f"/proc/{pid}/environ").read_bytes()
    except OSError:
        return {}
    pairs = (os.fsdecode(entry).partition("=") for entry in raw.split(b"\0") if entry)
    return {name: value for name, _, value in pairs}


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
