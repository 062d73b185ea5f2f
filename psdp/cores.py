"""The cores that this process may use: those of its affinity mask, and what its container grants.

Control groups limit processor time without hiding a core: 1.5 of 64 cores show as 64.
"""

from __future__ import annotations

import os
import platform
import re
from collections.abc import Iterator
from pathlib import Path

_SELF = Path("/proc/self")


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


def cpu_quota(process: Path = _SELF) -> float | None:
    """Return the cores' worth of time that the tightest control group around this process grants
    to all processes in it; None where none limits them.

    Args:
        process: folder of /proc that tells of the process.
    """
    quotas = (_quota_of(folder) for folder in _cpu_groups(process))
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


def _cpu_groups(process: Path) -> Iterator[Path]:
    """Yield the folders of the control groups that share out this process's time, inmost first."""
    try:
        groups = os.fsdecode((process / "cgroup").read_bytes())
        mounts = os.fsdecode((process / "mountinfo").read_bytes())
    except OSError:  # not every sandbox shows them
        return
    paths = {}
    for line in groups.splitlines():
        number, controllers, path = line.split(":", 2)
        if number == "0" and not controllers:
            paths["cgroup2"] = path
        elif "cpu" in controllers.split(","):
            paths["cgroup"] = path
    for line in mounts.splitlines():
        mount, _, system = line.partition(" - ")
        root, folder = map(_unescaped, mount.split(" ")[3:5])
        kind, _, options = system.split(" ", 2)
        if kind == "cgroup2" or (kind == "cgroup" and "cpu" in options.split(",")):
            inside = _below(paths.get(kind, "/"), root).parts
            yield from (Path(folder, *inside[:depth]) for depth in range(len(inside), -1, -1))


def _below(path: str, root: str) -> Path:
    """Return where a group is below the root of a mount; the mount itself shows one's own group
    where the path is that of another namespace."""
    group = Path(path)
    if ".." in group.parts or not group.is_relative_to(root):
        return Path()
    return group.relative_to(root)


def _unescaped(field: str) -> str:
    """Return a field of mountinfo without its octal escapes, of blanks for one."""
    return re.sub(r"\\([0-7]{3})", lambda octal: chr(int(octal[1], 8)), field)
