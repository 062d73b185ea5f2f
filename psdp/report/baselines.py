"""What rows are compared with: modes that are exact, with servers and without."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

from psdp.modes import MODES, Mode
from psdp.report.measures import Stat
from psdp.report.rows import Row
from psdp.report.settings import differing


def _first(modes: Iterable[Mode]) -> Mode:
    return min(modes, key=lambda mode: mode.order)


SERVED = _first(mode for mode in MODES.values() if mode.exact and mode.served)
UNSERVED = _first(mode for mode in MODES.values() if mode.exact and not mode.served)
"""The usual baselines, which a report names where it has no run of any."""


def baseline(rows: Sequence[Row], row: Row, *, served: bool = True) -> Row | None:
    """Return the row of the first exact mode that there is, with servers or without: a plain one if
    possible, tuned if ``row`` is, whose other settings are most like those of that; for plain
    rows of that mode itself, the first of them. None if there is none without backup workers all
    of whose runs came to their end."""

    def distance(other: Row) -> tuple[int, bool, bool, int]:
        unlike = len(differing([row, other]))
        return other.kind.order, not other.plain, other.tuned is not row.tuned, unlike

    found = [
        other
        for other in rows
        if other.kind.exact and other.kind.served is served
        if not other.backup_workers and not other.lost
    ]
    nearest = min(found, key=distance, default=None)
    if nearest is not None and row.plain and row.mode == nearest.mode:
        own = (other for other in found if other.plain and other.mode == nearest.mode)
        return next(own, nearest)
    return nearest


def with_ratios(row: Row, rows: Sequence[Row]) -> Row:
    """Return a row with its speed over those of the baselines."""
    served, unserved = (baseline(rows, row, served=served) for served in (True, False))
    if served is not None:
        row = replace(
            row,
            steps_ratio=_ratio(row.steps_per_s, served.steps_per_s),
            tokens_ratio=_ratio(row.tokens_per_s, served.tokens_per_s),
        )
    if unserved is not None:
        row = replace(row, allreduce_ratio=_ratio(row.steps_per_s, unserved.steps_per_s))
    return row


def _ratio(own: Stat, other: Stat) -> float | None:
    return own.mean / other.mean if other.mean else None
