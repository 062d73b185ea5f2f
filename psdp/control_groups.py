"""Control groups of either version, which grant the processes of a container a part of a host."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path

SELF = Path("/proc/self")


def groups_of(controller: str, process: Path = SELF) -> Iterator[Path]:
    """Yield the folders of the control groups by which a controller limits a process, inmost first.

    Args:
        controller: such as cpu.
        process: folder of /proc that tells of the process.
    """
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
        elif controller in controllers.split(","):
            paths["cgroup"] = path
    for line in mounts.splitlines():
        mount, _, system = line.partition(" - ")
        root, folder = map(_unescaped, mount.split(" ")[3:5])
        kind, _, options = system.split(" ", 2)
        if kind == "cgroup2" or (kind == "cgroup" and controller in options.split(",")):
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
