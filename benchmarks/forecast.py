"""How well psdp.virtual foretells a comparison: which mode comes first to the target loss, and
when; forecast and measured side by side.

    python -m benchmarks.forecast [SPEC] [--measured-seeds N] [--out DIR]

SPEC is that of a sweep (sweep.py; the shipped `forecast` has twelve clusters). Costs are fitted
from two recorded runs, with numbers of workers that no cluster of it has. Then the sweep runs in
virtual time, and after that, with the first N of its seeds (2), as real jobs. Where a cell has
--link-mbps, each rank of the real job has a host of its own, a network namespace whose port takes
no more, which needs root and iproute2; and so it is with the two runs, but for the limit.

The target of a cluster is that of its forecast: 1 % above the mean of what sync ends with. Foretold
is the mode whose mean time to it is the least, and that time, with an interval that is to hold 90 %
of what is measured: Student's, of a mean of N runs, and by how much the costs are off in the two
runs. What is finished is not run again.
"""

from __future__ import annotations

import argparse
import math
import os
import signal
import statistics
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from psdp.errors import ConfigError, PsdpError
from psdp.intervals import t_quantile, widened
from psdp.report.files import check_extra
from psdp.report.measures import Stat, time_to_loss
from psdp.report.rows import Row
from psdp.report.runs import Run, read_runs
from psdp.report.scenarios import Scenario, compare
from psdp.simulate.calibrate import calibrate
from psdp.simulate.costs import Costs
from psdp.terminal import path_of, show_any_text
from psdp.virtual import Cluster

# With `python -m` the folder above is on the path; the other benchmarks are run by their file.
sys.path.insert(0, str(Path(__file__).parent))

from cell_runs import Start, clear, is_finished, run_cell
from cells import Cell, Spec, changed, find_spec, read_spec
from namespaces import Hosts
from session import Ended, run_session
from simulator import FITTED
from sweep import Sweep, alone_in

LEVEL = 0.9
"""How many of the intervals are to hold."""
RIGHT = 10 / 12
WIDEST = 0.2


@dataclass(frozen=True)
class Forecast:
    """What was foretold of a cluster, and what was measured.

    Attributes:
        winner: the mode that was foretold to come first to the target, in ``mean_s``, give or take
            ``half_s``.
        measured_winner: the one that did; None if none came there in all runs.
        measured_s: of the mode that was foretold; None if not all of its runs came there.
    """

    title: str
    winner: str
    mean_s: float
    half_s: float
    measured_winner: str | None
    measured_s: float | None

    @property
    def width(self) -> float:
        return self.half_s / self.mean_s

    @property
    def is_right(self) -> bool:
        return self.winner == self.measured_winner

    @property
    def is_inside(self) -> bool:
        return self.measured_s is not None and abs(self.measured_s - self.mean_s) <= self.half_s

    def __str__(self) -> str:
        measured = "never" if self.measured_s is None else f"{self.measured_s:.2f} s"
        return (
            f"{self.title}: {self.winner} after {self.mean_s:.2f} s +- {self.width:.0%}, measured "
            f"{measured}{'' if self.is_inside else ', OUTSIDE'}; first was "
            f"{self.measured_winner or 'none'}{'' if self.is_right else ', WRONG'}"
        )


def forecast_of(scenario: Scenario, measured: Mapping[str, Run]) -> Forecast:
    """Return what a cluster's virtual runs foretold.

    Args:
        measured: its real runs, by name.

    Raises:
        ConfigError: no mode was foretold to come to a target in all runs.
    """
    foretold = {row.label: row.target_s for row in scenario.rows if row.all_reached}
    found = {row.label: measured_s(row, measured, scenario.target) for row in scenario.rows}
    foretold_s = {label: stat for label, stat in foretold.items() if stat is not None}
    if not foretold_s:
        raise ConfigError(f"{scenario.title}: no mode comes to the target loss; give more steps")
    winner = min(foretold_s, key=lambda label: foretold_s[label].mean)
    reached = {label: stat.mean for label, stat in found.items() if stat is not None}
    own, there = foretold_s[winner], found[winner]
    return Forecast(
        scenario.title,
        winner,
        own.mean,
        half_s(own, 1 if there is None else there.n),
        min(reached, key=lambda label: reached[label], default=None),
        reached.get(winner),
    )


def measured_s(row: Row, measured: Mapping[str, Run], target: float | None) -> Stat | None:
    """Return when the real runs of a row came to the target; None unless all did."""
    runs = [measured[name] for name in row.names if name in measured]
    if target is None or not runs:
        return None
    found = [(run.seed, time_to_loss(run.evaluations, target)) for run in runs]
    return None if any(time_s is None for _, time_s in found) else Stat.of(found)


def half_s(foretold: Stat, seeds: int) -> float:
    """Return half the width of the interval that is to hold the mean of so many real runs."""
    values = list(foretold.by_seed.values())
    if len(values) < 2:
        return math.inf
    own = statistics.stdev(values) * math.sqrt(1 / len(values) + 1 / seeds)
    return widened(t_quantile(len(values) - 1, LEVEL) * own, foretold.error, LEVEL)


@dataclass(frozen=True)
class Network:
    """Cells whose ranks reach one another in the same way.

    Attributes:
        mbps: Mbit/s of the ports of their hosts; 0: they are on one host.
    """

    mbps: float
    cells: tuple[Cell, ...]

    @property
    def name(self) -> str:
        return f"links of {self.mbps:g} Mbit/s" if self.mbps else "one host"

    def start(self, *, limited: bool = True) -> Start:
        """Return what runs a command on this network."""

        def start(command: Sequence[str], timeout_s: float) -> Ended:
            if not self.mbps:
                return run_session(command, timeout_s=timeout_s)
            ranks = int(command[command.index("-n") + 1])
            with Hosts(ranks + 1, self.mbps if limited else 0.0) as hosts:
                words, environment = hosts.launched(command, [1] * ranks)
                return run_session(words, timeout_s=timeout_s, env=environment)

        return start

    def fitted_from(self, out: Path, timeout_s: float) -> list[Path]:
        """Run the jobs that costs are fitted from; return their folders.

        Raises:
            ConfigError: one failed.
        """
        folders = []
        shared = set.intersection(*({*cell.given.items()} for cell in self.cells))
        for mode, workers in FITTED:
            own = {"mode": mode, "seed": 0, "record": True, "jitter": self.cells[0].given["jitter"]}
            cell = replace(self.cells[0], given={}, workers=workers)
            cell = changed(cell, f"{mode}-{workers}", dict(shared) | own)
            cell = without_link(cell)
            folders.append(out / "runs" / cell.name)
            if not is_finished(folders[-1]):
                clear(folders[-1])
                outcome = run_cell(cell, out, timeout_s, self.start(limited=False))
                if outcome.status != "finished":
                    raise ConfigError(f"no costs for {self.name}: {outcome.why}")
        return folders

    def forecasts(self, spec: Spec, seeds: Sequence[int], out: Path) -> list[Forecast]:
        """Run all that is not there: what costs are fitted from, the forecast, the real jobs."""
        folders = {part: out / self.name.replace("/", " per ") / part for part in PARTS}
        for part in PARTS:
            with alone_in(folders[part]):
                pass
        fitted = self.fitted_from(folders["fitted"], spec.timeout_s)
        cores = len(os.sched_getaffinity(0))
        calibration = calibrate(fitted, Costs(cores=cores))
        print(f"{self.name}: {calibration}", file=sys.stderr, flush=True)
        flags = ("--calibrate", *map(str, fitted), "--cores", str(cores), "--hosts", "1")
        cluster = Cluster({"cores": cores, "hosts": 1}, calibration)
        virtual = [replace(cell, virtual=flags, cluster=cluster) for cell in self.cells]
        real = [without_link(cell) for cell in self.cells if cell.config.run.seed in seeds]
        for part, cells in (("forecast", virtual), ("measured", real)):
            with alone_in(folders[part]):
                if Sweep(replace(spec, cells=tuple(cells)), folders[part], self.start()).run():
                    raise ConfigError(f"{folders[part]}: not all jobs came to their end")
        foretold, _ = read_runs(folders["forecast"] / "runs" / cell.name for cell in virtual)
        measured, _ = read_runs(folders["measured"] / "runs" / cell.name for cell in real)
        by_name = {run.name: run for run in measured}
        return [forecast_of(scenario, by_name) for scenario in compare(foretold)]


PARTS = "fitted", "forecast", "measured"


def without_link(cell: Cell) -> Cell:
    """Return a cell whose network is a real one."""
    given = {name: value for name, value in cell.given.items() if name != "link_mbps"}
    return changed(replace(cell, given=given), cell.name, {})


def networks(cells: Sequence[Cell]) -> list[Network]:
    """Return the cells by their networks."""
    speeds = dict.fromkeys(cell.config.run.link_mbps for cell in cells)
    return [
        Network(mbps, tuple(cell for cell in cells if cell.config.run.link_mbps == mbps))
        for mbps in speeds
    ]


def parse(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Return what a command line asks for."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("spec", nargs="?", default="forecast", metavar="SPEC")
    parser.add_argument("--measured-seeds", type=int, default=2, metavar="N", help="default 2")
    parser.add_argument("--out", metavar="DIR", help="default sweeps/NAME, after the spec's name")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    """Foretell and measure; return 0 if the forecasts are good ones."""
    show_any_text()
    own = parse(argv)
    signal.signal(signal.SIGTERM, lambda number, _frame: sys.exit(128 + number))
    try:
        check_extra()
        spec = read_spec(find_spec(own.spec))
        out = path_of(own.out, "--out") if own.out else Path("sweeps") / spec.name
        seeds = list(dict.fromkeys(cell.config.run.seed for cell in spec.cells))
        found = [
            forecast
            for network in networks(spec.cells)
            for forecast in network.forecasts(spec, seeds[: own.measured_seeds], out)
        ]
    except PsdpError as error:
        print(f"benchmarks.forecast: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        return 128 + signal.SIGINT
    print(*found, sep="\n")
    right, inside = sum(each.is_right for each in found), sum(each.is_inside for each in found)
    widest = max(each.width for each in found)
    print(
        f"{len(found)} clusters: {right} winners right, {inside} times inside the {LEVEL:.0%} "
        f"interval, which is +- {widest:.0%} at most"
    )
    return 0 if min(right, inside) >= RIGHT * len(found) and widest <= WIDEST else 1


if __name__ == "__main__":
    sys.exit(main())
