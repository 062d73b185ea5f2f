"""A report's tables, for the terminal and the page alike: rows as cells."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

from psdp.report.baselines import SERVED, baseline
from psdp.report.formats import NONE, change, loss, number, percent, seconds, size, spread
from psdp.report.measures import Stat
from psdp.report.rows import Row, lag_percentiles
from psdp.report.runs import PARTS
from psdp.report.scenarios import Scenario
from psdp.report.settings import differing, of_modes, said, value_in

Cell = Callable[[Row], str]


@dataclass(frozen=True)
class Table:
    """A table's heading, the names of its columns, and its rows of cells."""

    heading: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


def tables(scenario: Scenario) -> list[Table]:
    """Return the tables of a scenario."""
    target = "time to target" if scenario.target is None else f"time to {loss(scenario.target)}"
    base = baseline(scenario.rows, scenario.rows[0])
    units = f"{scenario.unit}s"
    speed: dict[str, Cell] = {
        "mode": lambda row: row.label,
        "seeds": lambda row: ", ".join(map(str, row.seeds)),
        "steps/s": lambda row: spread(row.steps_per_s),
        f"/ {SERVED if base is None else base.mode}": lambda row: _ratio(row.steps_ratio),
        f"{units}/s": lambda row: spread(row.tokens_per_s),
        "val loss": lambda row: spread(row.val_loss, loss),
        "best": lambda row: spread(row.best_val_loss, loss),
        f"at equal {units}": lambda row: spread(row.equal_tokens_loss, loss),
        "at equal time": lambda row: spread(row.equal_time_loss, loss),
        target: _time_to_target,
    }
    traffic: dict[str, Cell] = {
        "mode": lambda row: row.label,
        "lag p50": lambda row: str(lag_percentiles(row)[0]),
        "lag p95": lambda row: str(lag_percentiles(row)[1]),
        "lag max": lambda row: str(lag_percentiles(row)[2]),
        "clock gap": lambda row: str(row.max_gap),
        "dropped": lambda row: str(row.dropped),
        "bytes": lambda row: spread(row.bytes, size),
        "bytes/step": lambda row: spread(row.bytes_per_step, size),
        **{part: _share_of(part) for part in (*PARTS, "other")},
    }
    found = [
        _table("speed and loss; ± is half of the 95 % interval", speed, scenario.rows),
        _differences(scenario),
        _table("lags, bytes, and where the workers' time went", traffic, scenario.rows),
        _settings(scenario),
    ]
    return [table for table in found if table is not None]


def _differences(scenario: Scenario) -> Table | None:
    """Return by how much rows differ from their baselines; None where there is none."""
    pairs = [(row, baseline(scenario.rows, row)) for row in scenario.rows]
    against = {row.label: base for row, base in pairs if base is not None and base is not row}
    rows = [row for row in scenario.rows if row.label in against]
    if not rows:
        return None

    def cell(choose: Callable[[Row], Stat | None], say: Callable[..., str]) -> Cell:
        def show(row: Row) -> str:
            own, other = choose(row), choose(against[row.label])
            if own is None or other is None:
                return NONE
            return change(own.minus(other), other.mean, say)

        return show

    def seeds(row: Row) -> str:
        found = row.steps_per_s.minus(against[row.label].steps_per_s)
        pairs = f"{len(found.by_seed)} pairs" if found.by_seed else "unpaired"
        return pairs if found.half < math.inf else "single seeds"

    columns: dict[str, Cell] = {
        "mode": lambda row: row.label,
        "against": lambda row: against[row.label].label,
        "by seed": seeds,
        "steps/s": cell(lambda row: row.steps_per_s, number),
        "val loss": cell(lambda row: row.val_loss, loss),
        f"at equal {scenario.unit}s": cell(lambda row: row.equal_tokens_loss, loss),
        "at equal time": cell(lambda row: row.equal_time_loss, loss),
        "time to target": cell(lambda row: row.target_s if row.all_reached else None, seconds),
    }
    return _table("differences from the baseline, with their 95 % intervals", columns, rows)


def _settings(scenario: Scenario) -> Table | None:
    """Return the settings in which rows differ, defaults included; None if there are none."""
    names = [*differing(scenario.rows), *of_modes(scenario.rows)]
    if not names:
        return None
    columns: dict[str, Cell] = {"mode": lambda row: row.label}
    columns |= {said(name): partial(_value, name) for name in names}
    return _table("settings that differ, or belong to some modes", columns, scenario.rows)


def _value(name: str, row: Row) -> str:
    return value_in(row, name) or NONE


def _table(heading: str, columns: dict[str, Cell], rows: Sequence[Row]) -> Table:
    cells = (tuple(cell(row) for cell in columns.values()) for row in rows)
    return Table(heading, tuple(columns), tuple(cells))


def _ratio(value: float | None) -> str:
    return NONE if value is None else number(value)


def _time_to_target(row: Row) -> str:
    text = spread(row.target_s, seconds)
    return text if row.all_reached else f"{text} ({row.reached} of {row.runs})"


def _share_of(part: str) -> Cell:
    return lambda row: percent(row.mean_share(part)) if row.shares else NONE
