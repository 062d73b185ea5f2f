"""The cores that this process may use: those of its affinity mask, and what its container grants.

Control groups limit processor time without hiding a core: 1.5 of 64 cores show as 64.
"""

from __future__ import annotations

import os
import platform
import re
from pathlib import Path

from psdp.control_groups import SELF, groups_of


def own_cores() -> list[int]:
    """Return the cores this process may run on (fewer than the node's where MPI binds ranks)."""
    return sorted(os.sched_getaffinity(0))


def processor_name(cpuinfo: Path = Path("/proc/cpuinfo")) -> str:
    """Return what the system calls this host's processor, its architecture where it has no name."""
    try:
        told = cpuinfo.read_text(encoding="utf-8", errors="replace")
    except OSError:
        told = ""
    named = re.search(r"^model name\s*:\s*(\S.*)$", told, re.MULTILINE)
    return named[1].strip() if named else platform.machine()


def cpu_quota(process: Path = SELF) -> float | None:
    """Return the cores' worth of time that the tightest control group around this process grants
    to all processes in it; None where none limits them.

    Args:
        process: folder of /proc that tells of the process.
    """
    quotas = (_quota_of(folder) for folder in groups_of("cpu", process))
    return min((quota for quota in quotas if quota is not None), default=None)


def _quota_of(folder: Path) -> float | None:
    """Return the limit of one control group, of version 2 or 1; None without, or if unreadable."""
    try:
        if (folder / "cpu.max").exists():
            quota, period = (folder / "cpu.max").read_text().split()
        else:
            quota = (folder / "cpu.cfs_quota_us").read_text()
            period = (folder / "cpu.cfs_period_us").read_text()
        cores = int(quota) / int(period)  # "max", or -1, where there is no limit
    except (OSError, ValueError, ZeroDivisionError):
        return None
    return cores if cores > 0 else None
