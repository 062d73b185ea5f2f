"""What rows are called, and where they stand among others."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

from psdp.modes import MODES, Merge
from psdp.report.rows import LostRow, Row
from psdp.report.settings import CONDITIONS, NOT_COMPARED, SETUP, hashable, said

Rows = Sequence[Row | LostRow]


def labels(rows: Rows) -> list[str]:
    """Return a label of its own for each row: the mode, whether it is tuned, and the settings that
    tell it from others of which that is the same, unless these only follow from others."""
    bases = [_base_label(row.settings, row.tuned) for row in rows]
    same: defaultdict[str, list[Row | LostRow]] = defaultdict(list)
    for base, row in zip(bases, rows, strict=True):
        same[base].append(row)
    return [
        ", ".join([base, *(said(name, row.settings[name]) for name in _apart(same[base]))])
        for base, row in zip(bases, rows, strict=True)
    ]


def _apart(rows: Rows) -> list[str]:
    """Return the settings that tell rows from one another."""
    return [
        name
        for name in rows[0].settings
        if name not in NOT_COMPARED | SETUP | CONDITIONS
        and len({hashable(row.settings[name]) for row in rows}) > 1
        and not all(name in row.follows for row in rows)
    ]


def _base_label(s: Mapping[str, Any], tuned: bool) -> str:
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


def sort_key(s: Mapping[str, Any], label: str) -> tuple[Any, ...]:
    """Return by what rows are sorted: the order of their modes, then their settings."""
    numbers = (s["backup_workers"], s["staleness"] or 0, s["local_steps"] or 0)
    return (MODES[s["mode"]].order, *numbers, s["merge"] == Merge.EACH, label)
