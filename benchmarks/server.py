"""How fast a server applies gradients: against a memcpy of the bytes that it must touch.

    python benchmarks/server.py [--parameters 10000000] [--workers 2] [--rounds 15] [--json FILE]

Applying is what a server does between the last push of a round and its answers: the mean of the
gradients, its norm, and the update with clipping. An update by AdamW reads weights, gradient and
two moments and writes all but the gradient: 28 bytes a parameter in float32. A memcpy that touches
as many bytes reads one half of them and writes the other. One core; all take turns, medians.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import sys
import time
from collections.abc import Callable
from dataclasses import asdict

import numpy as np
from intervals import Median, median
from training import LR, OPTIM

from psdp.backend import make_backend
from psdp.backend.squares import sum_of_squares
from psdp.backend.threads import limit_blas
from psdp.modes import Pushed
from psdp.optim import make_optimizer
from psdp.params import Part
from psdp.servers.rules import Rule, Rules
from psdp.servers.shard import Shard

ITEM_BYTES = 4


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--parameters", type=int, default=10_000_000)
    parser.add_argument("--workers", type=int, default=2, help="gradients in a mean")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--core", type=int, default=max(os.sched_getaffinity(0)))
    parser.add_argument("--json", metavar="FILE", help="write the results there too")
    options = parser.parse_args()
    if min(options.parameters, options.workers, options.rounds) < 1:
        parser.error("--parameters, --workers and --rounds must be at least 1")
    os.sched_setaffinity(0, {options.core})
    limit_blas(1)

    seconds = measure(options.parameters, options.workers, options.rounds)
    ratios = {
        work: median(np.array(seconds[work]) / np.array(seconds[f"memcpy for {work}"]))
        for work in ("update", "mean")
    }
    show(options.parameters, options.workers, seconds, ratios)
    if options.json:
        with open(options.json, "w") as file:
            over = {work: asdict(ratio) for work, ratio in ratios.items()}
            json.dump({"seconds": seconds, "over_memcpy": over}, file, indent=2)
    return 0


def measure(size: int, workers: int, rounds: int) -> dict[str, list[float]]:
    """Return the seconds of each kind of work, once a round, after a round that does not count."""
    rng = np.random.default_rng(0)
    weights = rng.standard_normal(size, dtype=np.float32)
    optimizer = make_optimizer(OPTIM, Part(range(size), size), make_backend("cpu", "float32"))
    rule = Rule(optimizer, lambda _steps: LR, clip=OPTIM.grad_clip)
    shard = Shard(Rules({Pushed.GRADIENT: rule}), weights, workers)
    for slot in shard.slots:
        slot[...] = rng.standard_normal(size, dtype=np.float32)
    slots, shares = list(range(workers)), [1 / workers] * workers
    gradient = shard.slots[0]
    norm = math.sqrt(sum_of_squares(gradient))
    moved = {"update": 7 * size, "mean": (workers + 1) * size}
    source = np.ones(max(moved.values()) // 2, np.float32)
    target = np.zeros_like(source)

    def copy(items: int) -> Callable[[], object]:
        return lambda: np.copyto(target[: items // 2], source[: items // 2])

    works: dict[str, Callable[[], object]] = {
        "update": lambda: shard.update(Pushed.GRADIENT, gradient, norm, LR),
        "memcpy for update": copy(moved["update"]),
        "mean": lambda: shard.average(slots, shares),
        "memcpy for mean": copy(moved["mean"]),
        "norm": lambda: sum_of_squares(gradient),
    }
    seconds: dict[str, list[float]] = {name: [] for name in works}
    for turn in range(rounds + 1):
        for name, work in works.items():
            start = time.perf_counter()
            work()
            if turn:
                seconds[name].append(time.perf_counter() - start)
    return seconds


def show(
    size: int, workers: int, seconds: dict[str, list[float]], ratios: dict[str, Median]
) -> None:
    touched = {"update": 7, "mean": workers + 1, "norm": 1}
    print(f"{size:,} parameters, float32{'':10}ms      GB/s   over a memcpy (95 %)")
    for work, items in touched.items():
        middle = median(seconds[work]).value
        rate = items * size * ITEM_BYTES / middle / 1e9
        ratio = str(ratios[work]) if work in ratios else ""
        label = f"mean of {workers}" if work == "mean" else work
        print(f"{label:28}{1e3 * middle:12.2f}{rate:10.1f}   {ratio}".rstrip())


if __name__ == "__main__":
    sys.exit(main())
