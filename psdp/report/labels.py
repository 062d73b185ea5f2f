"""What rows are called, and where they stand among others."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

from psdp.modes import MODES, Merge
from psdp.report.settings import CONDITIONS, NOT_COMPARED, OF_MODE, SETUP, hashable, said

Settings = Mapping[str, Any]
"""Of a row, by name."""


def labels(rows: Sequence[Settings], tuned: Sequence[bool]) -> list[str]:
    """Return a label of its own for each row: the mode, whether it is tuned, and the settings that
    tell them apart."""
    shared = [name for name in rows[0] if name not in NOT_COMPARED | OF_MODE | SETUP]
    shared = [name for name in shared if name not in CONDITIONS and _vary(name, rows)]
    same: defaultdict[str, list[Settings]] = defaultdict(list)
    bases = [_base_label(row, is_tuned) for row, is_tuned in zip(rows, tuned, strict=True)]
    for base, row in zip(bases, rows, strict=True):
        same[base].append(row)
    found = []
    for base, row in zip(bases, rows, strict=True):
        own = [name for name in sorted(OF_MODE) if _vary(name, same[base])]
        words = [said(name, row.get(name)) for name in [*own, *shared]]
        found.append(", ".join([base, *words]))
    return found


def _vary(name: str, rows: Sequence[Settings]) -> bool:
    return len({hashable(row.get(name)) for row in rows}) > 1


def _base_label(s: Settings, tuned: bool) -> str:
    parts = [MODES[s["mode"]].label.format_map(s)]
    if s["backup_workers"]:
        parts.append(f"{s['backup_workers']} backup")
    if s["merge"] == Merge.EACH:
        parts.append(f"merge {s['merge']}")
    if s["lag_compensation"] != "none":
        parts.append(s["lag_compensation"])
    if s["overlap"]:
        parts.append("overlap")
    if s["balance"] != "static":
        parts.append(s["balance"])
    if tuned:
        parts.append("tuned")
    return ", ".join(parts)


def sort_key(s: Settings, label: str) -> tuple[Any, ...]:
    """Return by what rows are sorted: the order of their modes, then their settings."""
    numbers = (s["backup_workers"], s["staleness"] or 0, s["local_steps"] or 0)
    return (MODES[s["mode"]].order, *numbers, s["merge"] == Merge.EACH, label)
