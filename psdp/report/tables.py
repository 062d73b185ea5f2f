"""A report's tables, for the terminal and the page alike: rows as cells."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from psdp.report.baselines import SERVED, baseline
from psdp.report.formats import NONE, loss, number, percent, seconds, size, spread
from psdp.report.rows import Row, lag_percentiles
from psdp.report.runs import PARTS
from psdp.report.scenarios import Scenario

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
    return [
        _table("speed and loss", speed, scenario),
        _table("lags, bytes, and where the workers' time went", traffic, scenario),
    ]


def _table(heading: str, columns: dict[str, Cell], scenario: Scenario) -> Table:
    rows = (tuple(cell(row) for cell in columns.values()) for row in scenario.rows)
    return Table(heading, tuple(columns), tuple(rows))


def _ratio(value: float | None) -> str:
    return NONE if value is None else number(value)


def _time_to_target(row: Row) -> str:
    text = spread(row.target_s, seconds)
    return text if row.all_reached else f"{text} ({row.reached} of {len(row.names)})"


def _share_of(part: str) -> Cell:
    return lambda row: percent(row.mean_share(part)) if row.shares else NONE
