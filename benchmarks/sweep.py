"""Sweeps: many training jobs, one after the other, and a report on all of them.

    python -m benchmarks.sweep SPEC.toml [--out DIR]

SPEC is a file (cells.py says what is in it) or the bare name of one in benchmarks/specs, such as
sync_vs_async. Every cell is a process of its own: an mpirun, by psdp.launch, or a virtual job. A
cell that is finished is not run again, so a sweep that was interrupted goes on with the same
command; one that fails is recorded, and the others go on. Then the report is made, as by python -m
psdp.report.

    DIR/runs/CELL/    the run folder of each cell;  DIR/logs/CELL.log  what it printed
    DIR/tune/         the same of trials, where the spec tunes (trials.py);  DIR/trials.csv
    DIR/sweep.json    what became of each cell, and with which settings those that are tuned ran
    DIR/report.html   and report.json, runs.csv, curves.csv, *.png
"""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import shlex
import signal
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from types import FrameType

from tqdm import tqdm

from psdp.errors import ConfigError, PsdpError
from psdp.records.search import SEARCH, Search
from psdp.report.files import check_extra, write_report
from psdp.terminal import nobody_reads, path_of, show_any_text

# With `python -m` the folder above is on the path; the other benchmarks are run by their file.
sys.path.insert(0, str(Path(__file__).parent))

from cell_runs import Outcome, Start, clear, read_record, run_cell, see_what_is_there, write_record
from cells import Cell, Spec, find_spec, read_spec
from session import Ended, run_session
from space import check_search
from trials import Trials, families_of


class Stopped(BaseException):
    """A signal asked the sweep to end."""

    def __init__(self, number: int) -> None:
        self.number = number


class Sweep:
    """What a spec asks for, in a folder: trials, if it tunes, then the cells as it gives them and
    as they came out best, seed by seed.

    Raises:
        ConfigError: the spec cannot be, or ``out`` holds runs of other settings.
    """

    def __init__(self, spec: Spec, out: Path, start: Start) -> None:
        self._spec = spec
        self._out = out
        self._start = start
        self._families = families_of(spec)
        self._trials = Trials(self._families, spec.tuning, out)
        self._cells = list(spec.cells)
        """Those that there will be, as soon as their settings are known."""
        self._tuned: dict[str, Search] = {}
        """What is known of cells whose settings came out best, by their names; where these are what
        the spec gives, the spec's own."""
        self._before = (read_record(out / "sweep.json") or {}).get("cells", {})
        self._outcomes: dict[str, Outcome] = {}
        self._see_what_is_there()

    def run(self) -> int:
        """Run what is not finished, then make the report; return the exit status.

        Raises:
            ConfigError: the folder cannot be written, or holds runs of other settings.
            Stopped: a signal; the cell that was running is ended, and what is recorded says so.
        """
        names = [name for family in self._families for name in family.tuned_names()]
        total = len(self._cells) + len(names) + self._trials.jobs
        with tqdm(total=total, initial=self._done, unit="job", file=sys.stderr) as self._bar:
            self._tune()
            self._bar.total = len(self._cells) + self._trials.jobs
            ahead = self._see_what_is_there()
            for cell in self._cells:
                self._mark(cell)
            for cell in ahead:
                clear(self._out / "runs" / cell.name)
                self._outcomes[cell.name] = self._run_cell(cell, self._out)
                self._mark(cell)
                self._write_record()
                self._show_progress()
        self._write_record()
        return self._report()

    def _tune(self) -> None:
        """Run the trials; add the cells with the settings that came out best."""
        failed = self._trials.run(self._run_cell, self._show_progress)
        for family in self._families:
            best = self._trials.best(family)
            if best is not None and family.name not in failed:
                cells = family.tuned(best)
                self._tuned |= dict.fromkeys(
                    (cell.name for cell in cells), self._trials.search(family, best)
                )
                self._cells += [cell for cell in cells if cell not in self._cells]
                continue
            why = failed.get(family.name, f"all its trials diverged; see {self._trials.table}")
            self._outcomes |= dict.fromkeys(family.tuned_names(), Outcome("failed", why=why))
        seeds = list(dict.fromkeys(cell.config.run.seed for cell in self._cells))
        self._cells.sort(key=lambda cell: seeds.index(cell.config.run.seed))

    def _mark(self, cell: Cell) -> None:
        """Have the folder of a cell, if there is one, say of which search its settings came, to
        whoever reads it alone."""
        folder = self._out / "runs" / cell.name
        search = self._tuned.get(cell.name)
        if search is None:
            (folder / SEARCH).unlink(missing_ok=True)
        elif folder.is_dir():
            write_record(folder / SEARCH, asdict(search))

    def _see_what_is_there(self) -> list[Cell]:
        """Return the cells that are still to be run; note those that are done."""
        ahead = see_what_is_there(self._cells, self._out)
        for cell in self._cells:
            if cell not in ahead:
                self._outcomes.setdefault(cell.name, Outcome("finished", self._wall_s(cell)))
        return ahead

    def _run_cell(self, cell: Cell, out: Path) -> Outcome:
        self._bar.set_postfix_str(cell.name)
        outcome = run_cell(cell, out, self._spec.timeout_s, self._start)
        tqdm.write(f"{cell.name}: {outcome}", file=sys.stderr)
        return outcome

    @property
    def _done(self) -> int:
        return len(self._outcomes) + self._trials.jobs_done

    def _show_progress(self) -> None:
        self._bar.update(self._done - self._bar.n)

    def _wall_s(self, cell: Cell) -> float | None:
        """Return how long a cell took that an earlier call ran."""
        record = self._before.get(cell.name) if isinstance(self._before, Mapping) else None
        return record.get("wall_s") if isinstance(record, Mapping) else None

    def _write_record(self) -> None:
        names = [cell.name for cell in self._cells]
        missing = [name for name in self._outcomes if name not in names]
        outcomes = {name: self._outcomes.get(name, NOT_RUN) for name in [*names, *missing]}
        record = {
            "name": self._spec.name,
            "spec": str(self._spec.path),
            "tuned": {name: search.best for name, search in self._tuned.items()},
            "cells": {name: asdict(outcome) for name, outcome in outcomes.items()},
        }
        write_record(self._out / "sweep.json", record)

    def _report(self) -> int:
        spec, outcomes = self._spec, self._outcomes
        failed = {
            self._out / "runs" / name: f"failed: {outcome.why}"
            for name, outcome in outcomes.items()
            if outcome.status == "failed"
        }
        finished = [cell for cell in self._cells if outcomes[cell.name].status == "finished"]
        if finished:
            said = write_report(
                [self._out / "runs" / cell.name for cell in finished],
                self._out,
                title=spec.name,
                about=spec.description,
                target=spec.target_loss,
                failed=failed,
                beside=self._trials.shown(),
            )
            print(said, flush=True)
        if failed:
            print(f"{len(failed)} of {len(outcomes)} cells failed", file=sys.stderr)
        return 1 if failed else 0


NOT_RUN = Outcome("not run")


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
            print("\n".join(listed(spec)), flush=True)
            return 0
        check_extra()
        if spec.tuning.trials:
            check_search()
        out = path_of(options.out, "--out") if options.out else Path("sweeps") / spec.name
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, _stop)
        with alone_in(out):
            return Sweep(spec, out, _start).run()
    except PsdpError as error:
        print(f"benchmarks.sweep: {error}", file=sys.stderr)
        return error.exit_code
    except BrokenPipeError:
        return nobody_reads()
    except Stopped as stopped:
        again = ["python", "-m", "benchmarks.sweep", options.spec, "--out", str(out)]
        print(f"interrupted; {shlex.join(again)} goes on with it", file=sys.stderr)
        return 128 + stopped.number


def listed(spec: Spec) -> list[str]:
    """Return the names of all cells, and how many trials are to come before them."""
    lines = [cell.name for cell in spec.cells]
    families = families_of(spec)
    lines += [name for family in families for name in family.tuned_names()]
    if families:
        trials, seeds = spec.tuning.trials, len(spec.tuning.seeds)
        lines.append(f"and {trials} trials of {seeds} seed(s) of each of {len(families)} families")
    return lines


def _start(command: Sequence[str], timeout_s: float) -> Ended:
    return run_session(command, timeout_s=timeout_s)


if __name__ == "__main__":
    sys.exit(main())
