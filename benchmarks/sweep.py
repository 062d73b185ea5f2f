"""Sweeps: many training jobs, one after the other, and a report on all of them.

    python -m benchmarks.sweep SPEC.toml [--out DIR]

SPEC is a file (cells.py says what is in it) or the bare name of a shipped one: sync_vs_async,
stragglers, staleness, local_steps. Every cell is an mpirun of its own, by psdp.launch. A cell that
is finished is not run again, so a sweep that was interrupted goes on with the same command; one
that fails is recorded, and the others go on. Then the report is made, as by python -m psdp.report.

    DIR/runs/CELL/    the run folder of each cell;  DIR/logs/CELL.log  what it printed
    DIR/sweep.json    what became of each cell
    DIR/report.html   and report.json, runs.csv, curves.csv, *.png
"""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import json
import shlex
import shutil
import signal
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from types import FrameType
from typing import Any

from tqdm import tqdm

from psdp.errors import ConfigError, PsdpError
from psdp.records.folder import CONFIG, SUMMARY
from psdp.report.files import check_extra, write_report
from psdp.report.runs import FINISHED, LeftOut
from psdp.terminal import nobody_reads, path_of, show_any_text

# With `python -m` the folder above is on the path; the other benchmarks are run by their file.
sys.path.insert(0, str(Path(__file__).parent))

from cells import Cell, Spec, differences, find_spec, read_spec
from session import Ended, run_session

Start = Callable[[Sequence[str], float], Ended]
"""Runs a command for so many seconds at most; returns what it left."""

TAIL = 12
"""Lines of a failed cell's output that are kept with its record."""

SAYS = "psdp: "
"""How a line of psdp's own begins."""


@dataclass(frozen=True)
class Outcome:
    """What became of a cell: ``status`` is finished or failed; ``why`` and the ``tail`` of its
    output are of one that failed."""

    status: str
    wall_s: float | None = None
    why: str = ""
    tail: tuple[str, ...] = ()


class Stopped(BaseException):
    """A signal asked the sweep to end."""

    def __init__(self, number: int) -> None:
        self.number = number


def run_cell(cell: Cell, out: Path, timeout_s: float, start: Start) -> Outcome:
    """Run a cell, in a folder that holds nothing yet; return what became of it."""
    folder, log = out / "runs" / cell.name, out / "logs" / f"{cell.name}.log"
    words = ["-n", str(cell.ranks), *cell.flags(), "--quiet", "--out", str(folder)]
    command = [sys.executable, "-m", "psdp.launch", *words]
    began_s = time.monotonic()
    ended = start(command, timeout_s)
    wall_s = round(time.monotonic() - began_s, 2)
    told = f"{shlex.join(command)}\n{ended.output}"
    log.write_text(told, encoding="utf-8", errors="backslashreplace")
    tail = tuple(ended.output.splitlines()[-TAIL:])
    if ended.status is None:
        return Outcome("failed", wall_s, f"still running after {timeout_s:g} s", tail)
    if ended.status != 0:
        return Outcome("failed", wall_s, f"exit status {ended.status}{_said(ended.output)}", tail)
    if not is_finished(folder):
        return Outcome("failed", wall_s, "it left no summary of a finished run", tail)
    return Outcome("finished", wall_s)


def _said(output: str) -> str:
    """Return what psdp itself said of a failure, which the launcher's lines stand around."""
    lines = [line for line in output.splitlines() if line.startswith(SAYS)]
    return f": {lines[-1].removeprefix(SAYS)}" if lines else ""


def is_finished(folder: Path) -> bool:
    """Say whether a run came to its end."""
    summary = _read(folder / SUMMARY)
    return summary is not None and summary.get("stopped_by") in FINISHED


def see_what_is_there(cells: Sequence[Cell], out: Path) -> list[Cell]:
    """Return the cells that are still to be run.

    Raises:
        ConfigError: a finished run is of other settings than its cell.
    """
    ahead, others = [], []
    for cell in cells:
        folder = out / "runs" / cell.name
        config = _read(folder / CONFIG)
        if config is None or not is_finished(folder):
            ahead.append(cell)
            continue
        apart = differences(cell, config.get("settings", {}), config.get("workers"))
        if apart:
            others.append(f"\n  {folder}: {'; '.join(apart)}")
    if others:
        raise ConfigError(
            "finished runs are of other settings than the spec now says; choose another --out, or "
            f"remove them:{''.join(others)}"
        )
    return ahead


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


def run_sweep(spec: Spec, out: Path, start: Start) -> int:
    """Run all cells that are not finished, then make the report; return the exit status.

    Raises:
        ConfigError: ``out`` holds runs of other settings, or cannot be written.
        Stopped: a signal; the cell that was running is ended, and what is recorded says so.
    """
    ahead = see_what_is_there(spec.cells, out)
    done = [cell for cell in spec.cells if cell not in ahead]
    before = (_read(out / "sweep.json") or {}).get("cells", {})
    outcomes = {cell.name: Outcome("finished", _wall_s(before, cell)) for cell in done}
    with tqdm(total=len(spec.cells), initial=len(done), unit="cell", file=sys.stderr) as bar:
        for cell in ahead:
            bar.set_postfix_str(cell.name)
            clear(out / "runs" / cell.name)
            outcome = outcomes[cell.name] = run_cell(cell, out, spec.timeout_s, start)
            _write_record(spec, out, outcomes)
            tqdm.write(f"{cell.name}: {_became(outcome)}", file=sys.stderr)
            bar.update()
    _write_record(spec, out, outcomes)
    return _report(spec, out, outcomes)


def _became(outcome: Outcome) -> str:
    if outcome.status == "finished":
        return f"{outcome.wall_s:.1f} s"
    return f"FAILED, {outcome.why}"


def _wall_s(before: Any, cell: Cell) -> float | None:
    """Return how long a cell took that an earlier call ran."""
    record = before.get(cell.name) if isinstance(before, Mapping) else None
    return record.get("wall_s") if isinstance(record, Mapping) else None


def _write_record(spec: Spec, out: Path, outcomes: Mapping[str, Outcome]) -> None:
    path = out / "sweep.json"
    record = {
        "name": spec.name,
        "spec": str(spec.path),
        "cells": {
            cell.name: asdict(outcomes.get(cell.name, Outcome("not run"))) for cell in spec.cells
        },
    }
    beside = path.with_suffix(".tmp")
    beside.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    beside.replace(path)


def _report(spec: Spec, out: Path, outcomes: Mapping[str, Outcome]) -> int:
    failed = [
        LeftOut(name, f"failed: {outcome.why}; see {out / 'logs' / name}.log")
        for name, outcome in outcomes.items()
        if outcome.status == "failed"
    ]
    runs = [
        out / "runs" / cell.name for cell in spec.cells if outcomes[cell.name].status == "finished"
    ]
    if runs:
        about, target = spec.description, spec.target_loss
        said = write_report(runs, out, title=spec.name, about=about, target=target, failed=failed)
        print(said, flush=True)
    if failed:
        print(f"{len(failed)} of {len(spec.cells)} cells failed", file=sys.stderr)
    return 1 if failed else 0


def _read(path: Path) -> dict[str, Any] | None:
    """Return the object of a JSON file; None if there is none, or it is damaged."""
    try:
        record = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return None
    return record if isinstance(record, dict) else None


@contextlib.contextmanager
def alone_in(out: Path) -> Iterator[None]:
    """Make a sweep's folder and keep other sweeps out of it.

    Raises:
        ConfigError: it cannot be made, or another sweep is running in it.
    """
    try:
        for folder in (out / "runs", out / "logs"):
            folder.mkdir(parents=True, exist_ok=True)
        lock = (out / ".lock").open("w")
    except OSError as error:
        raise ConfigError(f"--out {out}: {error.strerror}") from error
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise ConfigError(f"--out {out}: another sweep is running there") from error
        yield


def _stop(number: int, _frame: FrameType | None) -> None:
    signal.signal(number, signal.SIG_IGN)  # a second one would leave the cell's ranks behind
    raise Stopped(number)


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """Return the options.

    Raises:
        SystemExit: ``--help``, or an option that cannot be.
    """
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.sweep",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("spec", metavar="SPEC", help="a file, or the name of a shipped spec")
    parser.add_argument("--out", metavar="DIR", help="default sweeps/NAME, after the spec's name")
    parser.add_argument("--list", action="store_true", help="show the cells; run nothing")
    options = parser.parse_args(argv)
    if options.out == "":
        parser.error("--out is empty; name a folder, or drop it")
    return options


def main(argv: Sequence[str] | None = None) -> int:
    show_any_text()
    options = parse(argv)
    try:
        spec = read_spec(find_spec(options.spec))
        if options.list:
            print("\n".join(cell.name for cell in spec.cells), flush=True)
            return 0
        check_extra()
        out = path_of(options.out, "--out") if options.out else Path("sweeps") / spec.name
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, _stop)
        with alone_in(out):
            return run_sweep(spec, out, _start)
    except PsdpError as error:
        print(f"benchmarks.sweep: {error}", file=sys.stderr)
        return error.exit_code
    except BrokenPipeError:
        return nobody_reads()
    except Stopped as stopped:
        again = ["python", "-m", "benchmarks.sweep", options.spec, "--out", str(out)]
        print(f"interrupted; {shlex.join(again)} goes on with it", file=sys.stderr)
        return 128 + stopped.number


def _start(command: Sequence[str], timeout_s: float) -> Ended:
    return run_session(command, timeout_s=timeout_s)


if __name__ == "__main__":
    sys.exit(main())
