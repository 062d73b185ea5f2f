"""The memory that the processes of this host may have, and what this one has had of it."""

from __future__ import annotations

import os
import resource
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from psdp.control_groups import SELF, groups_of

_UNIT_BYTES = 1024
"""Of ``ru_maxrss`` on Linux."""


def memory_bytes(process: Path = SELF) -> int:
    """Return the memory of this host, or what the tightest control group around this process grants
    to all processes in it, where that is less.

    Args:
        process: folder of /proc that tells of the process.
    """
    limits = (_limit_of(folder) for folder in groups_of("memory", process))
    whole = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return min([whole, *(limit for limit in limits if limit is not None)])


def _limit_of(folder: Path) -> int | None:
    """Return the limit of one control group, of version 2 or 1; None without, or if unreadable."""
    for name in ("memory.max", "memory.limit_in_bytes"):
        try:
            return int((folder / name).read_text())
        except (OSError, ValueError):  # "max" where there is no limit
            pass
    return None


@dataclass(frozen=True, slots=True)
class Usage:
    """What a process has had of memory.

    Attributes:
        peak_bytes: that were in memory at once at most, with what it shares with others.
        page_faults: how often it had to wait until a page came from a disk.
    """

    peak_bytes: int = 0
    page_faults: int = 0


class OwnMemory:
    """What this process has of memory, its page faults from now on: what it was loaded from came
    from a disk too."""

    def __init__(
        self,
        usage: Callable[[], resource.struct_rusage] = lambda: resource.getrusage(
            resource.RUSAGE_SELF
        ),
    ) -> None:
        self._usage = usage
        self._before = usage().ru_majflt

    def usage(self) -> Usage:
        """Return what it has had until now."""
        now = self._usage()
        return Usage(now.ru_maxrss * _UNIT_BYTES, now.ru_majflt - self._before)
