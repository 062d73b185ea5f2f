"""Whether a report names what makes jobs slow: causes planted one by one, and the regime named.

    python benchmarks/regimes.py [--only CAUSE[,CAUSE...]] [--jobs N] [--out DIR]

Each of forty jobs has one cause planted: steps that are uneven by chance, a worker that is always
slow, a slow link, a slow update (of many workers' large models, with a token a step), a tiny model,
or more ranks than cores. A job is named right if its cause is among the regimes that python -m
psdp.report tells of it, and no other cause is; that cores were short may be told of any: it is true
of ranks that outnumber the cores, and on a machine that has other work. Exits with status 1 where
less than 95 % are named right.

--jobs N: of each cause the first N alone.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from session import run_session

from psdp.report.breakdown import Breakdown
from psdp.report.regimes import EXCHANGE_BOUND, LINK, RANDOM, SHORT, SLOW_UPDATE, STRAGGLER, causes
from psdp.report.runs import read_runs
from psdp.report.scenarios import compare

GOAL = 0.95
TIMEOUT_S = 200.0

STEADY = (
    *("--n-layer=2", "--n-head=2", "--n-embd=64", "--block-size=32", "--batch-size=8"),
    *("--max-steps=120", "--eval-every=1000", "--eval-batches=4"),
)
"""A model whose steps take some milliseconds, more than a server takes for them."""

TINY = (
    *("--n-layer=1", "--n-head=1", "--block-size=8", "--batch-size=1"),
    *("--max-steps=500", "--eval-every=1000", "--eval-batches=4"),
)
LARGE = (
    *("--n-layer=4", "--n-head=4", "--batch-size=1", "--block-size=1"),
    *("--max-steps=40", "--eval-every=1000", "--eval-batches=1"),
)


@dataclass(frozen=True)
class Plant:
    """A job with a cause planted in it.

    Attributes:
        cause: the regime that is to be named.
        flags: of the job, without the number of its ranks.
        cores: that the job may use; None if all.
    """

    cause: str
    workers: int
    flags: tuple[str, ...]
    cores: int | None = None


def plants() -> Iterator[Plant]:
    """Yield the forty jobs, cause by cause."""
    for number, jitter in enumerate(
        ("bernoulli:0.1:5", "bernoulli:0.2:4", "exponential:1", "pareto:2", "uniform:1:4")
    ):
        yield Plant(RANDOM, 2 + number % 2, (*STEADY, f"--jitter={jitter}"))
    yield Plant(RANDOM, 2, (*STEADY, "--jitter=exponential:1", "--mode=async"))
    yield Plant(RANDOM, 3, (*STEADY, "--jitter=bernoulli:0.2:4", "--mode=ssp"))
    for mode, (workers, factor) in itertools.product(("sync", "async"), ((2, 2), (2, 4), (3, 3))):
        straggler = f"--straggler={workers}:{factor}"
        yield Plant(STRAGGLER, workers, (*STEADY, straggler, f"--mode={mode}"))
    yield Plant(STRAGGLER, 3, (*STEADY, "--straggler=1:8", "--mode=sync"))
    for mbps, transport in itertools.product((50, 100, 200), ("shared", "messages")):
        yield Plant(LINK, 2, (*STEADY, f"--link-mbps={mbps}", f"--transport={transport}"))
    yield Plant(LINK, 2, (*STEADY, "--link-mbps=100", "--mode=async"))
    for width, workers in itertools.product((256, 384), (6, 8)):
        yield Plant(SLOW_UPDATE, workers, (*LARGE, f"--n-embd={width}"))
    for workers in (4, 6):
        yield Plant(SLOW_UPDATE, workers, (*LARGE, "--n-embd=384", "--mode=async"))
    for width, workers, transport in itertools.product((4, 8, 16), (2,), ("shared", "messages")):
        size = f"--n-embd={width}", f"--transport={transport}"
        yield Plant(EXCHANGE_BOUND, workers, (*TINY, *size))
    yield Plant(EXCHANGE_BOUND, 2, (*TINY, "--n-embd=8", "--mode=async"))
    for workers, cores in ((2, 1), (3, 1), (4, 1), (6, 2), (8, 2), (6, 1)):
        yield Plant(SHORT, workers, STEADY, cores)


@dataclass(frozen=True)
class Named:
    """What a report said of a job: the regimes, and the parts of its time."""

    regimes: tuple[str, ...]
    parts: Breakdown | None

    def right(self, cause: str) -> bool:
        return cause in self.regimes and set(self.regimes) <= {cause, SHORT}


def run(plant: Plant, folder: Path) -> Named:
    """Run a job; return what a report says of it.

    Raises:
        RuntimeError: the job failed; with its output.
    """
    ranks = plant.workers + 1
    words = ["-n", str(ranks), *plant.flags, "--threads=1", "--checkpoint-every=0", "--quiet"]
    command = [sys.executable, "-m", "psdp.launch", *words, "--out", str(folder)]
    if plant.cores is not None:
        usable = sorted(os.sched_getaffinity(0))[: plant.cores]
        command = ["taskset", "--cpu-list", ",".join(map(str, usable)), *command]
    ended = run_session(command, timeout_s=TIMEOUT_S)
    if ended.status != 0:
        raise RuntimeError(f"{' '.join(command)}\n{ended.output}")
    (scenario,) = compare(read_runs([folder])[0])
    return Named(tuple(cause.name for cause in causes(scenario)), scenario.rows[0].breakdown)


HEADER = (
    f"{'planted':20}{'workers':>8}  {'compute':>7}{'behind':>8}{'chance':>8}{'update':>8}"
    f"{'exchange':>9}{'slower':>8}  named"
)


def line(plant: Plant, named: Named) -> str:
    """Return the line of a job: shares of its time with a core always at hand, how many times as
    long all took, and what was named."""
    text = f"{plant.cause:20}{plant.workers:8}  "
    parts = named.parts
    if parts is not None:
        times = parts.step_s, parts.behind_s, parts.chance_s, parts.update_s, parts.exchange_s
        widths = 7, 8, 8, 8, 9
        shares = zip(times, widths, strict=True)
        text += "".join(f"{parts.share(time_s):{width}.0%}" for time_s, width in shares)
        text += f"{parts.total_s / parts.own_s:8.2f}"
    verdict = "" if named.right(plant.cause) else "   WRONG"
    return f"{text}  {', '.join(named.regimes)}{verdict}"


def chosen(only: Sequence[str], jobs: int | None) -> list[Plant]:
    """Return the jobs that are to be run."""
    of_cause = itertools.groupby(plants(), key=lambda plant: plant.cause)
    return [
        plant
        for cause, group in of_cause
        for plant in itertools.islice(group, jobs)
        if not only or cause in only
    ]


def main() -> int:
    parser = argparse.ArgumentParser(description="See whether causes that are planted are named.")
    parser.add_argument("--only", default="", help="causes, with commas between")
    parser.add_argument("--jobs", type=int, metavar="N", help="of each cause")
    parser.add_argument("--out", type=Path, help="where the run folders go; they are kept there")
    options = parser.parse_args()
    only = [cause for cause in options.only.split(",") if cause]
    ahead = chosen(only, options.jobs)
    right = 0
    print(HEADER)
    with tempfile.TemporaryDirectory() as scratch:
        out = options.out or Path(scratch)
        for number, plant in enumerate(ahead):
            named = run(plant, out / f"{number:02d}-{plant.cause.replace(' ', '-')}")
            right += named.right(plant.cause)
            print(line(plant, named), flush=True)
    share = right / len(ahead)
    print(f"{right} of {len(ahead)} named right, {share:.0%}; the goal is {GOAL:.0%}")
    print(json.dumps({"jobs": len(ahead), "right": right}))
    return 0 if share >= GOAL else 1


if __name__ == "__main__":
    sys.exit(main())
