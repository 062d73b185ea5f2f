"""The short version of a report, for a terminal."""

from __future__ import annotations

import os
import textwrap
from collections.abc import Iterator, Sequence
from itertools import zip_longest

from psdp.report.formats import listed, loss, seconds, size
from psdp.report.lost import LeftOut
from psdp.report.rows import Row, lag_percentiles
from psdp.report.scenarios import Scenario
from psdp.report.setup import setup
from psdp.report.tables import Table, tables
from psdp.report.verdict import unserved_line, verdict

WIDTH = 80
"""Columns of a terminal that does not say how many it has, in COLUMNS."""

LEAST = 40
"""Columns without which a table cannot be read."""


def short_version(
    title: str,
    about: str,
    scenarios: Sequence[Scenario],
    left_out: Sequence[LeftOut],
    beside: Sequence[Table] = (),
) -> str:
    """Return the tables and the verdict as text, for a terminal as wide as COLUMNS says."""
    width = _width()
    runs = sum(len(row.names) for scenario in scenarios for row in scenario.rows)
    lines = [f"{title}: {runs} run{'s' if runs > 1 else ''}", *([about] if about else [])]
    for scenario in scenarios:
        lines += ["", f"== {scenario.title}"]
        lines += [f"{about}: {told}" for about, told in setup(scenario)]
        for table in tables(scenario):
            lines += ["", f"{table.heading}:", *fitted(table, width)]
        lines += ["", *facts(scenario), "", "Verdict"]
        lines += [f"- {sentence}" for sentence in verdict(scenario)]
    for table in beside:
        lines += ["", f"{table.heading}:", *fitted(table, width)]
    if left_out:
        lines += ["", "Left out:", *(f"- {run.name}: {run.why}" for run in left_out)]
    return "\n".join(folded for line in lines for folded in _folded(line, width))


def _width() -> int:
    columns = os.environ.get("COLUMNS", "")
    return max(int(columns), LEAST) if columns.isdecimal() else WIDTH


def _folded(line: str, width: int) -> list[str]:
    """Return a line as several that are no longer than the terminal is wide, if its words allow."""
    if len(line) <= width:
        return [line]
    return textwrap.wrap(
        line, width, subsequent_indent="  ", break_long_words=False, break_on_hyphens=False
    )


def facts(scenario: Scenario) -> list[str]:
    """Return the lines that every report has: the baseline without servers, the target loss, equal
    time, percentiles of version lag, bytes; and what intervals hold where times were simulated."""
    target = f"Target loss: none ({scenario.target_from})."
    if scenario.target is not None:
        target = f"Target loss: {loss(scenario.target)} ({scenario.target_from})."
    lags, sent = [], []
    for row in scenario.rows:
        half, most, greatest = lag_percentiles(row)
        lags.append(f"{row.label} {half} / {most} / {greatest}")
        sent.append(f"{row.label} {size(row.bytes.mean)}")
    lines = [
        unserved_line(scenario),
        target,
        *_equal_time(scenario),
        f"Version lag, 50th / 95th percentile / greatest: {'; '.join(lags)}.",
        f"Bytes pushed and pulled, mean of a run: {'; '.join(sent)}.",
    ]
    lines += _intervals(scenario.rows)
    resumed = [row.label for row in scenario.rows if row.resumed]
    if resumed:
        lines.append(
            f"Runs of {', '.join(resumed)} were resumed: their bytes, lags and throughput are of "
            "the last start alone, their times of all starts together."
        )
    return lines


def _equal_time(scenario: Scenario) -> Iterator[str]:
    if scenario.equal_time_s is not None:
        after = seconds(scenario.equal_time_s)
        yield f"Equal time: {after}, at which the first row was done, on the average of its runs."


def _intervals(rows: Sequence[Row]) -> Iterator[str]:
    """Yield what intervals of virtual jobs hold, and what not."""
    virtual = [row for row in rows if row.virtual]
    for error in dict.fromkeys(row.costs_error for row in virtual):
        own = [row.label for row in virtual if row.costs_error == error]
        whose = "Intervals" if len(own) == len(rows) else f"Intervals of {listed(own)}"
        if error is None:
            yield (
                f"{whose} are over seeds alone: by how much the costs of these virtual jobs are "
                "off is not known, since they were said, or fitted from one run."
            )
        else:
            yield (
                f"{whose} are over seeds, and those of speeds and times also over how much the "
                f"costs of these virtual jobs are off: {100 * error:.1f} %, in the runs that they "
                "were fitted from."
            )


def fitted(table: Table, width: int = WIDTH) -> list[str]:
    """Return the lines of a table, none longer than ``width``: columns that do not fit beside the
    first follow below it, which is then told again, and long cells go over several lines."""
    names = [_wrapped(line[0], width // 3) for line in (table.columns, *table.rows)]
    first = max(len(part) for name in names for part in name)
    columns = [
        [_wrapped(cell, width - first - 2) for cell in column]
        for column in list(zip(table.columns, *table.rows, strict=True))[1:]
    ]
    blocks: list[list[list[list[str]]]] = [[]]
    left = width - first
    for column in columns:
        needed = 2 + _widest(column)
        if blocks[-1] and needed > left:
            blocks.append([])
            left = width - first
        blocks[-1].append(column)
        left -= needed
    lines = [line for block in blocks for line in ["", *_aligned(names, block)]]
    return lines[1:]


def _widest(column: Sequence[Sequence[str]]) -> int:
    return max(len(part) for cell in column for part in cell)


def _aligned(
    names: Sequence[Sequence[str]], columns: Sequence[Sequence[Sequence[str]]]
) -> Iterator[str]:
    """Yield the lines of some columns behind the names of their rows; a cell may have several."""
    first, widths = _widest(names), [_widest(column) for column in columns]
    for name, *cells in zip(names, *columns, strict=True):
        for own, *others in zip_longest(name, *cells, fillvalue=""):
            told = [part.rjust(width) for part, width in zip(others, widths, strict=True)]
            yield "  ".join([own.ljust(first), *told]).rstrip()


def _wrapped(cell: str, width: int) -> list[str]:
    return textwrap.wrap(cell, width, subsequent_indent="  ") or [cell]
