"""What a report leaves: runs.csv, curves.csv, report.json, the plots and report.html."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from types import MappingProxyType
from typing import Any

from psdp.errors import ConfigError
from psdp.records.metrics import percentile
from psdp.report.baselines import UNSERVED
from psdp.report.lost import LeftOut, Lost, failed_run
from psdp.report.measures import loss_after, loss_at, time_to_loss
from psdp.report.regimes import regimes
from psdp.report.rows import Row, worker_shares
from psdp.report.runs import PARTS, Run, read_runs
from psdp.report.scenarios import Scenario, compare
from psdp.report.settings import differing, value_in
from psdp.report.setup import setup
from psdp.report.tables import Table
from psdp.report.text import short_version
from psdp.report.verdict import unserved_line, verdict


def check_extra() -> None:
    """See that what draws plots and pages is installed.

    Raises:
        ConfigError: it is not.
    """
    try:
        import jinja2  # noqa: F401
        import matplotlib  # noqa: F401
    except ImportError as error:
        raise ConfigError(f"a report needs {error.name}; pip install 'psdp[report]'") from error


def write_report(
    folders: Iterable[Path],
    out: Path,
    *,
    title: str,
    about: str = "",
    target: float | None = None,
    failed: Mapping[Path, str] = MappingProxyType({}),
    beside: Sequence[Table] = (),
) -> str:
    """Write the report on some run folders to ``out``; return its short version and where it is.

    Args:
        about: a sentence below the title.
        target: a loss, of which the time until it is reached is reported.
        failed: the folders of runs that are known to have failed, if these are there at all, and
            why.
        beside: tables of what is behind the runs, to be shown after what they are.

    Raises:
        ConfigError: no run is finished, a path is no run folder, ``out`` cannot be written, or what
            draws is not installed.
    """
    check_extra()
    from psdp.report.page import render
    from psdp.report.plots import write_plots

    runs, left_out = read_runs(folders)
    left_out = [*(failed_run(path, why) for path, why in failed.items()), *left_out]
    lost = [run for run in left_out if isinstance(run, Lost)]
    scenarios = compare(runs, target, lost)
    try:
        out.mkdir(parents=True, exist_ok=True)
        _write_csv(out / "runs.csv", run_records(scenarios, runs))
        _write_csv(out / "curves.csv", curve_records(runs))
        plots = list(write_plots(scenarios, runs, out))
        page = render(title, about, scenarios, runs, left_out, beside, plots, out)
        (out / "report.html").write_text(page, encoding="utf-8", errors="backslashreplace")
        record = _record(title, about, scenarios, runs, left_out)
        (out / "report.json").write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"--out {out}: {error.filename or out}: {error.strerror}") from error
    where = f"written: {out / 'report.html'}, report.json, runs.csv, curves.csv, *.png"
    return f"{short_version(title, about, scenarios, left_out, beside)}\n\n{where}"


def run_records(scenarios: Sequence[Scenario], runs: Sequence[Run]) -> list[dict[str, Any]]:
    """Return one record a run: what was measured, then its settings."""
    by_name = {run.name: run for run in runs}
    return [
        _run_record(scenario, row, by_name[name])
        for scenario in scenarios
        for row in scenario.rows
        for name in row.names
    ]


def _run_record(scenario: Scenario, row: Row, run: Run) -> dict[str, Any]:
    target, tokens, units = scenario.target, scenario.equal_tokens, f"{run.unit}s"
    shares, time_s = worker_shares(run), scenario.equal_time_s
    parts = (*PARTS, "other")
    return {
        "run": run.name,
        "scenario": scenario.title,
        "label": row.label,
        "workers": run.workers,
        "stopped_by": run.stopped_by,
        "resumed": run.resumed,
        units: run.tokens,
        "wall_s": run.wall_s,
        "steps_per_s": run.steps_per_s,
        f"{units}_per_s": run.tokens_per_s,
        "val_loss": run.val_loss,
        "best_val_loss": run.best_val_loss,
        f"equal_{units}": tokens,
        f"equal_{units}_loss": None if tokens is None else loss_at(run.evaluations, tokens),
        "equal_time_s": time_s,
        "equal_time_loss": None if time_s is None else loss_after(run.evaluations, time_s),
        "target_loss": target,
        "target_s": None if target is None else time_to_loss(run.evaluations, target),
        "version_lag_p50": percentile(run.lags, 0.5),
        "version_lag_p95": percentile(run.lags, 0.95),
        "version_lag_max": max(run.lags, default=None),
        "max_clock_gap": run.max_gap,
        "dropped": run.dropped,
        "bytes": run.bytes,
        "bytes_per_step": run.bytes_per_step,
        **{f"{part}_share": _mean([share[part] for share in shares]) for part in parts},
        **{
            name: " ".join(value) if isinstance(value, list) else value
            for name, value in run.settings.items()
        },
    }


def _mean(values: Sequence[float]) -> float | None:
    return sum(values) / len(values) if values else None


def curve_records(runs: Iterable[Run]) -> list[dict[str, Any]]:
    """Return one record for each train and eval record of each run."""
    records = []
    for run in runs:
        for point in run.points:
            clocks = point.record.get("clocks", {}).values()
            per_token, units = run.bytes_per_token, f"{run.unit}s"
            records.append(
                {
                    "run": run.name,
                    "mode": run.mode,
                    "seed": run.seed,
                    "kind": point.kind,
                    "time_s": round(point.time_s, 4),
                    units: point.tokens,
                    "version": point.version,
                    "bytes": None if per_token is None else round(per_token * point.tokens),
                    "loss": point.loss,
                    "accuracy": point.record.get("accuracy"),
                    "bits_per_byte": point.record.get("bits_per_byte"),
                    "lr": point.record.get("lr"),
                    f"{units}_per_s": point.record.get(f"{units}_per_s"),
                    "version_lag": point.record.get("version_lag"),
                    "clock_gap": max(clocks) - min(clocks) if clocks else None,
                }
            )
    return records


def _record(
    title: str,
    about: str,
    scenarios: Sequence[Scenario],
    runs: Sequence[Run],
    left_out: Sequence[LeftOut],
) -> dict[str, Any]:
    return {
        "title": title,
        "about": about,
        "scenarios": [
            {
                "title": scenario.title,
                **asdict(scenario),
                "setup": dict(setup(scenario)),
                "differing": {
                    name: {row.label: value_in(row, name) for row in scenario.rows}
                    for name in differing(scenario.rows)
                },
                "regimes": regimes(scenario),
                UNSERVED.name: unserved_line(scenario),
                "verdict": verdict(scenario),
            }
            for scenario in scenarios
        ],
        "runs": run_records(scenarios, runs),
        "left_out": [{"name": run.name, "why": run.why} for run in left_out],
    }


def _write_csv(path: Path, records: Sequence[Mapping[str, Any]]) -> None:
    """Write a table. The path of a run may hold bytes that are no text."""
    columns = list(dict.fromkeys(name for record in records for name in record))
    with path.open("w", newline="", encoding="utf-8", errors="backslashreplace") as file:
        writer = csv.DictWriter(file, columns)
        writer.writeheader()
        writer.writerows(records)
