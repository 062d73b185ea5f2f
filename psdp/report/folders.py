"""Paths that are to be run folders, and what runs are called after them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from psdp.errors import ConfigError
from psdp.records.folder import CONFIG


def check_folders(paths: Sequence[Path]) -> None:
    """See that all of these are run folders, whatever state their runs are in.

    Raises:
        ConfigError: some are not; it says why.
    """
    if not paths:
        raise ConfigError("no run folder is named")
    wrong = [path for path in paths if not (path / CONFIG).is_file()]
    if wrong:
        reasons = "".join(f"\n  {path}: {_why_no_run(path)}" for path in wrong)
        raise ConfigError(f"not a run folder:{reasons}")


def _why_no_run(path: Path) -> str:
    if not path.exists():
        return "does not exist"
    if not path.is_dir():
        return "is a file; name the folder that a run was told to write by --out"
    for inside in ("*", "runs/*"):
        if any(path.glob(f"{inside}/{CONFIG}")):
            return f"holds run folders; name them: {path}/{inside}"
    return f"has no {CONFIG}"


def names_of(paths: Sequence[Path]) -> list[str]:
    """Return what runs are called: as their folders, by their paths where several have one name."""
    own = [path.resolve().name for path in paths]
    return [
        name if own.count(name) == 1 else str(path) for name, path in zip(own, paths, strict=True)
    ]
