"""What a run loses that chooses its mode while it runs, beside one that was in the best mode from
its start.

    python -m benchmarks.regret [--cells 4-straggler ...] [--seeds 3,4] [--out FOLDER]

Every cell is a cluster: 2, 4 or 8 workers, which are equal, or one of which is four times slower,
or each of which is slow now and then, or which share slow links. In every cell each mode trains the
same small model on the same number of tokens, in the virtual time of psdp.virtual, so that it does
not matter what else the machine does. Modes are compared at equal time: at the time at which the
first of the fixed ones has spent its budget, by their validation loss then. Regret is how much
higher that is in the mode that chooses than in the best of the others.

Printed is also what a gradient is worth in each candidate, with the settings that it has in the
mode that chooses: how many gradients the first candidate took to a loss, over how many this one
took. The worths in psdp/modes.py are from there.

Each run is a folder; what is finished is not run again.
"""

from __future__ import annotations

import argparse
import json
import math
import shutil
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np

from psdp import virtual
from psdp.config import Config
from psdp.modes import CANDIDATES, MODES, Candidate

CLUSTER = virtual.Cluster({"step_s": 0.05, "latency_s": 1e-4, "apply_s": 1e-3, "average_s": 1e-4})
"""A step takes 50 ms, an update 1 ms."""
GRADIENTS = 1600
"""The budget of each run, whatever the number of workers."""
EVALUATIONS = 20
PARTS = 0.25, 0.5, 0.75, 1.0
"""Of the budget, after which losses are compared to say what a gradient is worth."""

MODEL: dict[str, Any] = {
    "n_layer": 2,
    "n_head": 2,
    "n_embd": 48,
    "block_size": 32,
    "batch_size": 8,
    "eval_batches": 24,
    "checkpoint_every": 0,
    "threads": 1,
    "log_every": 10,
    "quiet": True,
}

WORKERS = 2, 4, 8
CLUSTERS: dict[str, dict[str, Any]] = {
    "equal": {},
    "straggler": {"straggler": "{workers}:4"},
    "jitter": {"jitter": "bernoulli:0.1:4"},
    "links": {"link_mbps": 100.0},
}

(CHOOSES,) = (mode.name for mode in MODES.values() if mode.chooses)


def as_usual(one: Candidate) -> dict[str, Any]:
    """Return the settings of a run that is in this mode from its start, with the usual ones."""
    return {"mode": one.mode.name} | ({} if one.merge is None else {"merge": one.merge})


def as_chosen(one: Candidate) -> dict[str, Any]:
    """Return the settings of a run that is in this mode as a run is that chooses."""
    mode = MODES[CHOOSES]
    own = {name: value for name, value in mode.settings.items() if one.mode.has(name)}
    return as_usual(one) | own | dict(one.optim)


def _differ(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    return Config.from_flat(dict(one)).resolved() != Config.from_flat(dict(other)).resolved()


FIXED = {one.name: as_usual(one) for one in CANDIDATES.values()} | {
    f"{CHOOSES}.{one.name}": as_chosen(one)
    for one in CANDIDATES.values()
    if _differ(as_usual(one), as_chosen(one))
}
"""Each mode with its usual settings, and where those of the mode that chooses are others, with
these too."""
ROWS: dict[str, dict[str, Any]] = FIXED | {CHOOSES: {"mode": CHOOSES}}


@dataclass(frozen=True)
class Cell:
    """A cluster."""

    workers: int
    kind: str

    def __str__(self) -> str:
        return f"{self.workers}-{self.kind}"

    def settings(self) -> dict[str, Any]:
        """Return the settings of a run there, but for its mode."""
        slowed = {
            name: value.format(workers=self.workers) if isinstance(value, str) else value
            for name, value in CLUSTERS[self.kind].items()
        }
        steps = GRADIENTS // self.workers
        return MODEL | slowed | {"max_steps": steps, "eval_every": steps // EVALUATIONS}


CELLS = {str(cell): cell for cell in (Cell(w, kind) for w in WORKERS for kind in CLUSTERS)}


@dataclass(frozen=True)
class Curve:
    """Validation losses of a run, by virtual seconds and by gradients."""

    time_s: np.ndarray[Any, np.dtype[np.float64]]
    gradients: np.ndarray[Any, np.dtype[np.float64]]
    loss: np.ndarray[Any, np.dtype[np.float64]]

    def at(self, time_s: float) -> float:
        """Return the loss at a time."""
        return float(np.interp(time_s, self.time_s, self.loss))

    def gradients_to(self, loss: float) -> float:
        """Return after how many gradients the loss was first so low; NaN if it never was."""
        below = np.flatnonzero(self.loss <= loss)
        if not len(below) or below[0] == 0:
            return float("nan")
        late = int(below[0])
        span = slice(late - 1, late + 1)
        return float(np.interp(-loss, -self.loss[span], self.gradients[span]))


def train(out: Path, cell: Cell, row: Mapping[str, Any], seed: int) -> None:
    """Make a run, unless it is there; one that did not come to its end is begun anew."""
    if (out / "summary.json").exists():
        return
    shutil.rmtree(out, ignore_errors=True)
    given = cell.settings() | dict(row) | {"seed": seed, "out": str(out)}
    status = virtual.live(given, 1 + cell.workers, CLUSTER)
    if status:
        raise SystemExit(f"{out}: the run ended with status {status}")


def curve_of(out: Path) -> Curve:
    """Return the validation losses of a run."""
    lines = map(json.loads, (out / "metrics.jsonl").read_text().splitlines())
    evaluated = [line for line in lines if line["kind"] == "eval"]
    per_gradient = MODEL["batch_size"] * MODEL["block_size"]
    return Curve(
        np.array([line["time_s"] for line in evaluated]),
        np.array([line["tokens"] / per_gradient for line in evaluated]),
        np.array([line["val_loss"] for line in evaluated]),
    )


def measure(folder: Path, cell: Cell, seeds: Sequence[int]) -> dict[str, list[Curve]]:
    """Make the runs of a cell; return the curves of each row, a seed each."""
    curves: dict[str, list[Curve]] = {}
    for name, row in ROWS.items():
        for seed in seeds:
            out = folder / str(cell) / f"{name}-{seed}"
            train(out, cell, row, seed)
            curves.setdefault(name, []).append(curve_of(out))
    return curves


def regret(curves: Mapping[str, Sequence[Curve]]) -> tuple[dict[str, float], float]:
    """Return the mean loss of each row when the first of the fixed ones has spent its budget; and
    by which part that of the row that chooses is above the least."""
    end_s = min(fmean(float(own.time_s[-1]) for own in curves[name]) for name in FIXED)
    losses = {name: fmean(own.at(end_s) for own in each) for name, each in curves.items()}
    return losses, losses[CHOOSES] / min(losses[name] for name in FIXED) - 1


def worths(curves: Mapping[str, Sequence[Curve]]) -> dict[str, float]:
    """Return how many gradients of the first candidate one of each candidate is worth: the
    geometric mean over seeds and over the losses that the first one has after each of these parts
    of its budget, as far as the other one comes there."""
    rows = [f"{CHOOSES}.{name}" for name in CANDIDATES]
    rows = [row if row in curves else name for row, name in zip(rows, CANDIDATES, strict=True)]
    found: dict[str, float] = {}
    for name, row in zip(CANDIDATES, rows, strict=True):
        logs = []
        for own, first in zip(curves[row], curves[rows[0]], strict=True):
            for part in PARTS:
                took = part * first.gradients[-1]
                loss = float(np.interp(took, first.gradients, first.loss))
                logs.append(math.log(took / own.gradients_to(loss)))
        found[name] = math.exp(float(np.nanmean(logs)))
    return found


def _line(name: object, values: Iterable[float | str], form: str = "") -> str:
    return f"{name!s:13}" + "".join(f"{value:>17{form}}" for value in values)


def parse(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Return what a command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--cells", nargs="+", choices=list(CELLS), default=list(CELLS))
    parser.add_argument(
        "--seeds",
        type=lambda text: [int(seed) for seed in text.split(",")],
        default=[3, 4],
        metavar="N,...",
        help="default 3,4: the worths in psdp/modes.py are from 1,2",
    )
    parser.add_argument("--out", type=Path, default=Path("sweeps/regret"), metavar="FOLDER")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    """Make the runs that are not there; print what came of all of them."""
    own = parse(argv)
    found: dict[str, float] = {}
    worth: dict[str, dict[str, float]] = {}
    print(_line("loss", [*ROWS, "regret"]))
    for name in own.cells:
        curves = measure(own.out, CELLS[name], own.seeds)
        losses, found[name] = regret(curves)
        worth[name] = worths(curves)
        print(_line(name, losses.values(), ".4f") + f"{found[name]:17.1%}", flush=True)
    worst = max(found, key=lambda name: found[name])
    print(f"the worst regret is {found[worst]:.1%}, in {worst}\n\n{_line('worth', CANDIDATES)}")
    for name, values in worth.items():
        print(_line(name, values.values(), ".2f"))
    return 0


if __name__ == "__main__":
    sys.exit(main())
