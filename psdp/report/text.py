"""The short version of a report, for a terminal."""

from __future__ import annotations

from collections.abc import Sequence

from psdp.report.formats import loss, size
from psdp.report.rows import lag_percentiles
from psdp.report.runs import LeftOut
from psdp.report.scenarios import Scenario
from psdp.report.tables import Table, tables
from psdp.report.verdict import unserved_line, verdict


def short_version(
    title: str, about: str, scenarios: Sequence[Scenario], left_out: Sequence[LeftOut]
) -> str:
    """Return the tables and the verdict as text."""
    runs = sum(len(row.names) for scenario in scenarios for row in scenario.rows)
    lines = [f"{title}: {runs} run{'s' if runs > 1 else ''}", *([about] if about else [])]
    for scenario in scenarios:
        lines += ["", f"== {scenario.title}"]
        for table in tables(scenario):
            lines += ["", *_aligned(table)]
        lines += ["", *facts(scenario), "", "Verdict"]
        lines += [f"- {sentence}" for sentence in verdict(scenario)]
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
        f"Version lag, 50th / 95th percentile / greatest: {', '.join(lags)}.",
        f"Bytes pushed and pulled, mean of a run: {', '.join(sent)}.",
    ]
    resumed = [row.label for row in scenario.rows if row.resumed]
    if resumed:
        lines.append(
            f"Runs of {', '.join(resumed)} were resumed: their bytes, lags and throughput are of "
            "the last start alone, their times of all starts together."
        )
    return lines


def _aligned(table: Table) -> list[str]:
    lines = [table.columns, *table.rows]
    widths = [max(len(line[column]) for line in lines) for column in range(len(table.columns))]
    return [
        "  ".join(
            cell.ljust(width) if column == 0 else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in lines
    ]
