"""A cell run to its end: the job, what it printed, and what became of it."""

from __future__ import annotations

import json
import shlex
import shutil
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cells import OWN, Cell
from session import Ended

from psdp.errors import ConfigError
from psdp.records.folder import CONFIG, SUMMARY
from psdp.report.lost import FINISHED

Start = Callable[[Sequence[str], float], Ended]
"""Runs a command for so many seconds at most; returns what it left."""

TAIL = 12
"""Lines of a failed cell's output that are kept with its record."""

SAYS = "psdp: "
"""How a line of psdp's own begins."""


@dataclass(frozen=True)
class Outcome:
    """What became of a cell: ``status`` is finished or failed; ``why``, the ``tail`` of its output
    and its ``exit_status`` are of one that failed."""

    status: str
    wall_s: float | None = None
    why: str = ""
    tail: tuple[str, ...] = ()
    exit_status: int | None = None

    def __str__(self) -> str:
        return f"{self.wall_s:.1f} s" if self.status == "finished" else f"FAILED, {self.why}"


def run_cell(cell: Cell, out: Path, timeout_s: float, start: Start) -> Outcome:
    """Run a cell, in a folder that holds nothing yet; return what became of it."""
    folder, log = out / "runs" / cell.name, out / "logs" / f"{cell.name}.log"
    command = [sys.executable, "-m", *cell.command(), "--quiet", "--out", str(folder)]
    began_s = time.monotonic()
    ended = start(command, timeout_s)
    wall_s = round(time.monotonic() - began_s, 2)
    told = f"{shlex.join(command)}\n{ended.output}"
    log.write_text(told, encoding="utf-8", errors="backslashreplace")

    def failed(why: str) -> Outcome:
        tail = tuple(ended.output.splitlines()[-TAIL:])
        return Outcome("failed", wall_s, f"{why}; see {log}", tail, ended.status)

    if ended.status is None:
        return failed(f"still running after {timeout_s:g} s")
    if ended.status != 0:
        return failed(f"exit status {ended.status}{_said(ended.output)}")
    if not is_finished(folder):
        return failed("it left no summary of a finished run")
    return Outcome("finished", wall_s)


def _said(output: str) -> str:
    """Return what psdp itself said of a failure, which the launcher's lines stand around."""
    lines = [line for line in output.splitlines() if line.startswith(SAYS)]
    return f": {lines[-1].removeprefix(SAYS)}" if lines else ""


def is_finished(folder: Path) -> bool:
    """Say whether a run came to its end."""
    summary = read_record(folder / SUMMARY)
    return summary is not None and summary.get("stopped_by") in FINISHED


def see_what_is_there(cells: Sequence[Cell], out: Path) -> list[Cell]:
    """Return the cells that are still to be run.

    Raises:
        ConfigError: a finished run is of other settings than its cell.
    """
    ahead, others = [], []
    for cell in cells:
        folder = out / "runs" / cell.name
        config = read_record(folder / CONFIG)
        if config is None or not is_finished(folder):
            ahead.append(cell)
            continue
        if differences := differences_of(config, cell):
            others.append(f"\n  {folder}: {differences}")
    if others:
        raise ConfigError(
            "finished runs are of other settings than the spec now says; choose another --out, or "
            f"remove them:{''.join(others)}"
        )
    return ahead


def differences_of(config: Mapping[str, Any], cell: Cell) -> str:
    """Return in which settings and costs a run's config.json is not of a cell, in words; nothing if
    it is."""
    wanted = cell.config.flat() | {"workers": cell.workers}
    found = config.get("settings", {}) | {"workers": config.get("workers")}
    if cell.cluster is not None:
        wanted |= cell.cluster.record(config.get("parameters", 0))
    found |= config.get("costs", {})
    return apart(*({name: of[name] for name in of.keys() - OWN} for of in (found, wanted)))


def apart(found: Mapping[str, Any], wanted: Mapping[str, Any]) -> str:
    """Return what differs from what is now wanted, in words; nothing if nothing does. From which
    runs costs were fitted does not matter where these are the same."""
    return "; ".join(
        f"{name.replace('_', '-')} {found.get(name)}, now {wanted.get(name)}"
        for name in sorted((wanted.keys() | found.keys()) - {"calibrate"})
        if found.get(name) != wanted.get(name)
    )


def clear(folder: Path) -> None:
    """Remove what an interrupted or failed cell has left.

    Raises:
        ConfigError: it cannot be removed.
    """
    try:
        if folder.exists():
            shutil.rmtree(folder)
    except OSError as error:
        raise ConfigError(f"{folder} is in the way of its cell: {error.strerror}") from error


def read_record(path: Path) -> dict[str, Any] | None:
    """Return the object of a JSON file; None if there is none, or it is damaged."""
    try:
        record = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return None
    return record if isinstance(record, dict) else None


def write_record(path: Path, record: Any) -> None:
    """Write a JSON file, of which there is always one that is whole."""
    beside = path.with_suffix(".tmp")
    beside.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    beside.replace(path)
