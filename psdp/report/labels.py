"""What a row is called, and where it stands among others."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from psdp.modes import Merge
from psdp.report.rows import Row
from psdp.report.settings import CONDITIONS, NOT_COMPARED, OF_MODE, SETUP, hashable, said


def labelled(rows: Sequence[Row]) -> list[Row]:
    """Return the rows with labels of their own: the mode, and the settings that tell them apart."""
    shared = [name for name in rows[0].settings if name not in NOT_COMPARED | OF_MODE | SETUP]
    shared = [name for name in shared if name not in CONDITIONS and _vary(name, rows)]
    same: defaultdict[str, list[Row]] = defaultdict(list)
    for row in rows:
        same[_base_label(row)].append(row)
    found = []
    for base, alike in same.items():
        own = [name for name in sorted(OF_MODE) if _vary(name, alike)]
        for row in alike:
            words = [said(name, row.settings.get(name)) for name in [*own, *shared]]
            found.append(replace(row, label=", ".join([base, *words])))
    return found


def _vary(name: str, rows: Sequence[Row]) -> bool:
    return len({hashable(row.settings.get(name)) for row in rows}) > 1


def _base_label(row: Row) -> str:
    s = row.settings
    parts = [row.kind.label.format_map(s)]
    if row.backup_workers:
        parts.append(f"{row.backup_workers} backup")
    if s["merge"] == Merge.EACH:
        parts.append(f"merge {s['merge']}")
    if s["lag_compensation"] != "none":
        parts.append(s["lag_compensation"])
    if s["overlap"]:
        parts.append("overlap")
    if s["balance"] != "static":
        parts.append(s["balance"])
    return ", ".join(parts)


def sort_key(row: Row) -> tuple[Any, ...]:
    """Return by what rows are sorted: the order of their modes, then their settings."""
    s = row.settings
    numbers = (s["backup_workers"], s["staleness"] or 0, s["local_steps"] or 0)
    return (row.kind.order, *numbers, s["merge"] == Merge.EACH, row.label)
