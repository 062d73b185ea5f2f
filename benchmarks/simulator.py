"""How well psdp.simulate predicts real jobs: measured and simulated throughput, side by side.

    python benchmarks/simulator.py [--workers 2 4 8] [--sleep 4] [--repeats 3] [--json FILE]

Real jobs of a small model run in four modes, with and without a worker that is four times slower.
All workers sleep for most of a step (--sleep 4: three quarters of it), so that more of them than
there are cores can be had. The costs are fitted from two further jobs, without stragglers: async
with 3 workers and sync with 5. Every job is then predicted from its settings, and the cores.

All jobs run in turn, --repeats times, so that a machine that is faster at times is so for all; of
each the median counts, and the costs are fitted from all runs of the two. A run that shared the
machine with something else is repeated, --tries times at most, until others use no more than
--quiet-percent of the cores, and the quietest is taken. The table says how quiet they were.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import signal
import statistics
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from session import run_session

from psdp.simulate.calibrate import calibrate
from psdp.simulate.costs import Costs
from psdp.simulate.recorded import read_run
from psdp.simulate.world import World

MODES = {
    "sync": ("--mode", "sync"),
    "async": ("--mode", "async"),
    "ssp": ("--mode", "ssp", "--staleness", "4"),
    "local": ("--mode", "local", "--local-steps", "8"),
}
SLOWER = 4
"""How many times slower the straggler is, the last worker."""

FITTED = ("async", 3), ("sync", 5)
"""Mode and workers of the jobs that costs are fitted from."""

MODEL = (
    *("--n-layer", "2", "--n-head", "4", "--n-embd", "128", "--block-size", "64"),
    *("--batch-size", "6", "--vocab-size", "256", "--threads", "1", "--lr", "1e-3"),
    *("--val-fraction", "0", "--eval-every", "0", "--checkpoint-every", "0"),
)
TIMEOUT_S = 300.0
WORST, MEDIAN = 0.08, 0.03
"""The errors that the simulator is to keep to."""


class JobFailed(Exception):
    """A job ended badly, or not at all; the text shows what it printed."""


@dataclass(frozen=True)
class Cell:
    """A job to be measured."""

    mode: str
    workers: int
    straggler: bool

    def flags(self) -> tuple[str, ...]:
        slow = ("--straggler", f"{self.workers}:{SLOWER}") if self.straggler else ()
        return (*MODES[self.mode], *slow)


@dataclass(frozen=True)
class Result:
    """Gradients/s of a job, measured and predicted, and what others used of the cores then."""

    mode: str
    workers: int
    straggler: bool
    measured: float
    predicted: float
    others_percent: float

    @property
    def error(self) -> float:
        return self.predicted / self.measured - 1


@dataclass(frozen=True)
class Measured:
    """A run of a job: its folder, its throughput, and what others used of the cores meanwhile."""

    folder: Path
    gradients_per_s: float
    others_percent: float


@dataclass(frozen=True)
class Plan:
    """How jobs are run. ``folder`` holds the corpus and what they leave."""

    folder: Path
    steps: int
    sleep: float
    quiet_percent: float
    repeats: int
    tries: int

    def measure(self, cells: Sequence[Cell]) -> list[list[Measured]]:
        """Run jobs in turn, some times; return the runs of each, the slowest first.

        Raises:
            JobFailed: one did not end, or not with status 0.
        """
        rounds = []
        for number in range(self.repeats):
            rounds.append([self._quiet_run(cell, number) for cell in cells])
            print(f"round {number + 1} of {self.repeats} is done", file=sys.stderr, flush=True)
        return [
            sorted(runs, key=lambda run: run.gradients_per_s) for runs in zip(*rounds, strict=True)
        ]

    def _quiet_run(self, cell: Cell, repeat: int) -> Measured:
        best: Measured | None = None
        for number in range(self.tries):
            name = f"{cell.mode}-{cell.workers}-{cell.straggler}-{repeat}-{number}"
            run = self._run(cell, self.folder / name)
            if best is None or run.others_percent < best.others_percent:
                best = run
            if run.others_percent <= self.quiet_percent:
                break
        assert best is not None
        return best

    def _run(self, cell: Cell, out: Path) -> Measured:
        flags = {
            "corpus": self.folder / "tokens.npy",
            "max-steps": self.steps,
            "jitter": f"uniform:{self.sleep:g}:{self.sleep:g}",
            "out": out,
        }
        words = [word for name, value in flags.items() for word in (f"--{name}", str(value))]
        command = [sys.executable, "-m", "psdp.launch", "-n", str(1 + cell.workers)]
        command += [*words, *MODEL, *cell.flags(), "--record", "--quiet"]
        before, own_before = cores_used(), own_seconds()
        ended = run_session(command, timeout_s=TIMEOUT_S)
        after, own_after = cores_used(), own_seconds()
        if ended.status != 0:
            raise JobFailed(f"{' '.join(command)}: status {ended.status}:\n{ended.output}")
        busy, total = (end - start for end, start in zip(after, before, strict=True))
        others = max(0.0, busy - (own_after - own_before)) / total
        return Measured(out, read_run(out).gradients_per_s(), 100 * others)


def cores_used() -> tuple[float, float]:
    """Return seconds that all cores of this machine have been used, and have been there; what the
    host of a virtual machine took from it counts as used."""
    fields = [int(word) for word in Path("/proc/stat").read_text().splitlines()[0].split()[1:9]]
    idle = fields[3] + fields[4]
    tick_s = 1 / os.sysconf("SC_CLK_TCK")
    return (sum(fields) - idle) * tick_s, sum(fields) * tick_s


def own_seconds() -> float:
    """Return processor seconds of this process and all that it has waited for."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(usage.ru_utime + usage.ru_stime for usage in used)


HEADER = (
    f"{'mode':7}{'workers':>8}{'straggler':>11}{'measured':>10}{'simulated':>11}{'error':>8}"
    f"{'others':>9}   gradients/s"
)


def row(result: Result) -> str:
    """Return the line of the table for a job."""
    return (
        f"{result.mode:7}{result.workers:8}{'4 times' if result.straggler else 'none':>11}"
        f"{result.measured:10.1f}{result.predicted:11.1f}{result.error:+8.1%}"
        f"{result.others_percent:8.1f}%"
    )


def run_all(plan: Plan, workers: Sequence[int], cores: int) -> list[Result]:
    """Measure and predict every job; print each."""
    sources = [Cell(mode, count, straggler=False) for mode, count in FITTED]
    cells = [
        Cell(mode, count, straggler)
        for count in workers
        for straggler in (False, True)
        for mode in MODES
    ]
    measured = plan.measure([*sources, *cells])
    fitted_from = [run.folder for runs in measured[: len(sources)] for run in runs]
    fit = calibrate(fitted_from, Costs(cores=cores))
    print(fit, json.dumps(fit.costs.record()), sep="\n", file=sys.stderr, flush=True)
    print(HEADER, flush=True)
    results = []
    for cell, runs in zip(cells, measured[len(sources) :], strict=True):
        result = predicted(cell, runs[len(runs) // 2], fit.costs)
        print(row(result), flush=True)
        results.append(result)
    return results


def predicted(cell: Cell, measured: Measured, costs: Costs) -> Result:
    """Return what a job did beside what it should have."""
    course = World(read_run(measured.folder).job, costs).run()
    values = measured.gradients_per_s, course.gradients_per_s(), measured.others_percent
    return Result(cell.mode, cell.workers, cell.straggler, *values)


def parse() -> argparse.Namespace:
    """Return the options.

    Raises:
        SystemExit: ``--help``, or an option that cannot be.
    """
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--workers", type=int, nargs="+", metavar="W", default=[2, 4, 8])
    parser.add_argument("--steps", type=int, metavar="N", default=80, help="default 80")
    parser.add_argument("--sleep", type=float, metavar="FACTOR", default=4, help="default 4")
    parser.add_argument("--quiet-percent", type=float, metavar="X", default=3, help="default 3")
    parser.add_argument("--repeats", type=int, metavar="N", default=3, help="default 3")
    parser.add_argument("--tries", type=int, metavar="N", default=5, help="default 5")
    parser.add_argument("--json", metavar="FILE", help="write the results there too")
    options = parser.parse_args()
    counts = (*options.workers, options.repeats, options.tries, options.sleep)
    if min(counts) < 1 or options.steps < 40:
        parser.error(
            "--workers, --repeats, --tries and --sleep must be at least 1, --steps at least 40"
        )
    return options


def main() -> int:
    options = parse()
    # So that a session that is under way is ended, as with Ctrl-C.
    signal.signal(signal.SIGTERM, lambda number, _frame: sys.exit(128 + number))
    cores = len(os.sched_getaffinity(0))
    with tempfile.TemporaryDirectory(prefix="psdp-bench-") as name:
        folder = Path(name)
        tokens = np.random.default_rng(0).integers(0, 256, 1 << 20)
        np.save(folder / "tokens.npy", tokens.astype(np.uint8))
        plan = Plan(
            folder,
            options.steps,
            options.sleep,
            options.quiet_percent,
            options.repeats,
            options.tries,
        )
        try:
            results = run_all(plan, options.workers, cores)
        except JobFailed as error:
            print(f"a job failed: {error}", file=sys.stderr)
            return 1
        except KeyboardInterrupt:
            return 128 + signal.SIGINT
    worst = max(results, key=lambda result: abs(result.error))
    median = statistics.median(abs(result.error) for result in results)
    print(f"largest error {worst.error:+.1%}: {worst.mode}, {worst.workers} workers")
    print(f"median of the errors {median:.1%}")
    if options.json:
        records = [asdict(result) | {"error": result.error} for result in results]
        Path(options.json).write_text(json.dumps(records, indent=2) + "\n")
    return 0 if abs(worst.error) <= WORST and median <= MEDIAN else 1


if __name__ == "__main__":
    sys.exit(main())
