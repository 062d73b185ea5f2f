"""How fast one core trains: psdp against the same GPT in PyTorch, eager and compiled, and against
the matrix products of its own step alone.

    python benchmarks/compute.py [--sizes nano baby small] [--rounds 15] [--json FILE] [--quick]
    python benchmarks/compute.py --precision bf16    # PyTorch: autocast to bfloat16
    python benchmarks/compute.py --threads 2         # psdp alone: how it scales with threads

A step is forward, backward, gradient clipping and AdamW. All start from the same weights, see the
same batches, and must report the same losses while rounding errors are small. Each side lives in a
process of its own; all are pinned to the same core and take turns (turns.py). What a round gives is
compared within the round; the figures are medians over the rounds.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from dataclasses import asdict
from functools import partial

from judgement import (
    FLOOR_HEADER,
    HEADER,
    SCALING_HEADER,
    Result,
    Scaling,
    floor_row,
    judge,
    judge_scaling,
    row,
    scaling_row,
)
from products import products_side
from training import (
    BF16_LOSS_TOLERANCE,
    LOSS_TOLERANCE,
    SIZES,
    THREAD_VARIABLES,
    psdp_side,
    torch_side,
)
from turns import Runner, SideFailed, take_turns

ROUNDS, QUICK_ROUNDS = 15, 3
QUICK_SIZES = ("nano", "baby")


def measure(name: str, precision: str, rounds: int, core: int, *, compiling: bool) -> Result:
    """Run all rounds of a size.

    Raises:
        SideFailed: any but compiled PyTorch, which may be missing.
    """
    size, cores = SIZES[name], [core]
    makers = {
        "psdp": partial(psdp_side, size, precision),
        "eager": partial(torch_side, size, precision, compiled=False),
        "compile": partial(torch_side, size, precision, compiled=True),
        "products": partial(products_side, size, precision),
    }
    runners, why_not = {}, None
    for side, make in makers.items():
        if side == "compile" and not compiling:
            why_not = "not asked for"
            continue
        print(f"{name}: starting {side}", file=sys.stderr, flush=True)
        try:
            runner = Runner(make, size, cores)
            runner.warm_up()
        except SideFailed as error:
            if side != "compile":
                raise
            why_not = error.why
        else:
            runners[side] = runner
    take_turns(list(runners.values()), rounds, size.steps)
    for runner in runners.values():
        runner.stop()
    return judge(name, runners, why_not)


def measure_scaling(name: str, precision: str, rounds: int, cores: list[int]) -> Scaling:
    """Run all rounds of psdp on one core of ``cores`` and on all of them.

    Raises:
        SideFailed: one of the two.
    """
    size = SIZES[name]
    runners = []
    for own in (cores[-1:], cores):
        runners.append(Runner(partial(psdp_side, size, precision, len(own)), size, own))
        runners[-1].warm_up()
    take_turns(runners, rounds, size.steps)
    for runner in runners:
        runner.stop()
    return judge_scaling(name, len(cores), *runners)


def parse() -> argparse.Namespace:
    """Return the options.

    Raises:
        SystemExit: ``--help``, or an option that cannot be.
    """
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    own = sorted(os.sched_getaffinity(0))
    parser.add_argument("--sizes", nargs="+", choices=SIZES, help="default: all")
    parser.add_argument("--rounds", type=int, metavar="N", help=f"default {ROUNDS}")
    parser.add_argument(
        "--quick",
        action="store_true",
        help=f"{QUICK_ROUNDS} rounds of {' and '.join(QUICK_SIZES)}, unless told",
    )
    parser.add_argument("--precision", choices=["float32", "bf16"], default="float32")
    parser.add_argument(
        "--compile",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="whether compiled PyTorch takes part",
    )
    parser.add_argument("--threads", type=int, metavar="N", help="psdp alone, with 1 and with N")
    parser.add_argument(
        "--cores", type=int, nargs="+", metavar="CORE", help="default: the last ones"
    )
    parser.add_argument("--json", metavar="FILE", help="write the results there too")
    options = parser.parse_args()
    options.sizes = options.sizes or (QUICK_SIZES if options.quick else list(SIZES))
    if options.rounds is None:
        options.rounds = QUICK_ROUNDS if options.quick else ROUNDS
    wanted = options.threads or 1
    options.cores = options.cores or own[-wanted:]
    if options.rounds < 1:
        parser.error(f"--rounds must be at least 1, got {options.rounds}")
    if len(set(options.cores)) != wanted or not set(options.cores) <= set(own):
        parser.error(f"needs {wanted} of the cores {own}, got {options.cores}")
    return options


def compare(options: argparse.Namespace) -> tuple[list[Result], list[str]]:
    """Print both tables; return the results, and the sizes whose losses are apart."""
    results = []
    print(HEADER, flush=True)
    for name in options.sizes:
        (core,) = options.cores
        result = measure(name, options.precision, options.rounds, core, compiling=options.compile)
        results.append(result)
        print(row(result), flush=True)
    print("\nThe step over its matrix products alone, and peaks of memory:")
    print(FLOOR_HEADER, *map(floor_row, results), sep="\n", flush=True)
    tolerance = BF16_LOSS_TOLERANCE if options.precision == "bf16" else LOSS_TOLERANCE
    apart = [result.size for result in results if not result.largest_loss_difference < tolerance]
    if apart:
        print(f"losses differ by {tolerance} or more: {', '.join(apart)}", file=sys.stderr)
    return results, apart


def scale(options: argparse.Namespace) -> list[Scaling]:
    """Print the table of threads; return the results."""
    results = [
        measure_scaling(name, options.precision, options.rounds, options.cores)
        for name in options.sizes
    ]
    print(SCALING_HEADER, *map(scaling_row, results), sep="\n", flush=True)
    return results


def main() -> int:
    options = parse()
    # The children read these when they import NumPy and PyTorch.
    os.environ.update(dict.fromkeys(THREAD_VARIABLES, "1"))
    results: list[Result] | list[Scaling]
    apart: list[str] = []
    try:
        if options.threads:
            results = scale(options)
        else:
            results, apart = compare(options)
    except SideFailed as error:
        print(f"compute.py: {error}", file=sys.stderr)
        return 1
    if options.json:
        with open(options.json, "w") as file:
            json.dump([asdict(result) for result in results], file, indent=2)
    return 1 if apart else 0


if __name__ == "__main__":
    sys.exit(main())
