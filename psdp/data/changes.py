"""Which files of a corpus are others than they were."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path

_SHOWN = 5
"""Files that are named; of more it is said how many."""


def changes(before: Mapping[str, str], now: Mapping[str, str]) -> str:
    """Return what has changed, in brackets; nothing where it is not known.

    Args:
        before, now: what each file holds, by something that is another if that is.
    """
    if not before.keys() & now.keys():  # they lie elsewhere
        before, now = _by_last_name(before), _by_last_name(now)
    kinds = {
        "changed": [file for file in now if before.get(file, now[file]) != now[file]],
        "gone": [file for file in before if file not in now],
        "new": [file for file in now if file not in before],
    }
    said = [f"{kind}: {_some(files)}" for kind, files in kinds.items() if files]
    return f" ({'; '.join(said)})" if before and said else ""


def _by_last_name(checks: Mapping[str, str]) -> dict[str, str]:
    return {Path(file).name: check for file, check in checks.items()}


def _some(files: Collection[str]) -> str:
    more = f" and {len(files) - _SHOWN} more" if len(files) > _SHOWN else ""
    return f"{', '.join([*files][:_SHOWN])}{more}"
