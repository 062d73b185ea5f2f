"""The short version of a report, for a terminal."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Sequence

from psdp.report.formats import loss, size
from psdp.report.rows import lag_percentiles
from psdp.report.runs import LeftOut
from psdp.report.scenarios import Scenario
from psdp.report.setup import setup
from psdp.report.tables import Table, tables
from psdp.report.verdict import unserved_line, verdict

WIDTH = 80
"""Columns of a terminal, which tables keep to."""


def short_version(
    title: str,
    about: str,
    scenarios: Sequence[Scenario],
    left_out: Sequence[LeftOut],
    beside: Sequence[Table] = (),
) -> str:
    """Return the tables and the verdict as text."""
    runs = sum(len(row.names) for scenario in scenarios for row in scenario.rows)
    lines = [f"{title}: {runs} run{'s' if runs > 1 else ''}", *([about] if about else [])]
    for scenario in scenarios:
        lines += ["", f"== {scenario.title}"]
        lines += [f"{about}: {told}" for about, told in setup(scenario)]
        for table in tables(scenario):
            lines += ["", f"{table.heading}:", *fitted(table)]
        lines += ["", *facts(scenario), "", "Verdict"]
        lines += [f"- {sentence}" for sentence in verdict(scenario)]
    for table in beside:
        lines += ["", f"{table.heading}:", *fitted(table)]
    if left_out:
        lines += ["", "Left out:", *(f"- {run.name}: {run.why}" for run in left_out)]
    return "\n".join(lines)


def facts(scenario: Scenario) -> list[str]:
    """Return the lines that every report has: the baseline without servers, time to the target
    loss, percentiles of version lag, bytes."""
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
        f"Version lag, 50th / 95th percentile / greatest: {'; '.join(lags)}.",
        f"Bytes pushed and pulled, mean of a run: {'; '.join(sent)}.",
    ]
    resumed = [row.label for row in scenario.rows if row.resumed]
    if resumed:
        lines.append(
            f"Runs of {', '.join(resumed)} were resumed: their bytes, lags and throughput are of "
            "the last start alone, their times of all starts together."
        )
    return lines


def fitted(table: Table, width: int = WIDTH) -> list[str]:
    """Return the lines of a table, none longer than ``width`` if its cells allow it: columns that
    do not fit beside the first follow below it, which is then told again."""
    names = [_wrapped(line[0], width // 3) for line in (table.columns, *table.rows)]
    first = max(len(part) for name in names for part in name)
    columns = list(zip(table.columns, *table.rows, strict=True))[1:]
    blocks: list[list[tuple[str, ...]]] = [[]]
    left = width - first
    for column in columns:
        needed = 2 + max(map(len, column))
        if blocks[-1] and needed > left:
            blocks.append([])
            left = width - first
        blocks[-1].append(column)
        left -= needed
    lines = [line for block in blocks for line in ["", *_aligned(names, first, block)]]
    return lines[1:]


def _aligned(
    names: Sequence[Sequence[str]], first: int, columns: Sequence[Sequence[str]]
) -> Iterator[str]:
    """Yield the lines of some columns behind the names of their rows, which may have several."""
    widths = [max(map(len, column)) for column in columns]
    for number, name in enumerate(names):
        cells = [column[number].rjust(width) for column, width in zip(columns, widths, strict=True)]
        yield "  ".join([name[0].ljust(first), *cells]).rstrip()
        yield from name[1:]


def _wrapped(name: str, width: int) -> list[str]:
    return textwrap.wrap(name, width, subsequent_indent="  ") or [name]
