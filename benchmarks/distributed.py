"""How fast two cores train together: 1 psdp server + 2 workers against PyTorch DDP (gloo) on two
processes, and how much each keeps of what two processes do that train alone.

    python benchmarks/distributed.py [--sizes nano baby] [--rounds 5] [--json FILE]

Both train the same model, from the same weights, on the same batches with the same clipping and
AdamW, and must report the same losses while rounding errors are small. A round is four jobs, one
after the other: psdp and DDP, then two lone psdp processes at once and two lone PyTorch ones. Every
other round runs them backwards, so that what slows the machine for a while slows all of them. The
clock runs over the steps after a warm-up; psdp neither evaluates nor writes a checkpoint meanwhile.

Every process has one BLAS thread. The lone ones and those of DDP have a core each; psdp's three
ranks share the two cores as the system likes, which is how psdp.launch starts them.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import statistics
import sys
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path

from intervals import Median, median
from records import TIMES, Totals, largest_difference, read_train_records, tokens_per_s, totals
from sides import WORKERS, JobFailed, Plan, psdp_command, run, run_pair
from training import COMPARED_STEPS, LOSS_TOLERANCE

STEPS = {"nano": 150, "baby": 8}
"""Timed steps of a job, unless --steps says otherwise: about ten seconds."""


@dataclass(frozen=True)
class Round:
    """Tokens/s of the four jobs of a round: both sides together, and the sum of their lone ones."""

    psdp: float
    ddp: float
    psdp_alone: float
    torch_alone: float
    loss_difference: float
    totals: Totals

    def __str__(self) -> str:
        return (
            f"psdp {self.psdp:.0f} tokens/s (its two alone {self.psdp_alone:.0f}), "
            f"DDP {self.ddp:.0f} ({self.torch_alone:.0f})"
        )

    @property
    def ratio(self) -> float:
        return self.psdp / self.ddp

    @property
    def psdp_efficiency(self) -> float:
        return self.psdp / self.psdp_alone

    @property
    def ddp_efficiency(self) -> float:
        return self.ddp / self.torch_alone


@dataclass(frozen=True)
class Result:
    """Medians over the rounds; a ratio above 1 says psdp is faster."""

    size: str
    steps: int
    psdp_tokens_per_s: float
    ddp_tokens_per_s: float
    ratio: Median
    psdp_efficiency: Median
    ddp_efficiency: Median
    largest_loss_difference: float
    rounds: list[Round]


def run_round(plan: Plan, *, backwards: bool) -> Round:
    """Run the four jobs.

    Raises:
        JobFailed: one of them.
    """
    tokens = plan.steps * plan.size.tokens_per_step
    with tempfile.TemporaryDirectory(dir=plan.folder) as folder:
        out = Path(folder) / "run"
        pairs: dict[str, tuple[list[float], list[float]]] = {}
        order = ["server", "ddp", "psdp", "torch"]
        for kind in reversed(order) if backwards else order:
            if kind == "server":
                run(psdp_command(plan, out), plan)
            else:
                pairs[kind] = run_pair(kind, plan)
        records = read_train_records(out)
        summary = json.loads((out / "summary.json").read_text())
    ddp_seconds, ddp_losses = pairs["ddp"]
    return Round(
        psdp=tokens_per_s(records, plan.warmup, plan.all_steps),
        ddp=WORKERS * tokens / max(ddp_seconds),
        psdp_alone=sum(tokens / seconds for seconds in pairs["psdp"][0]),
        torch_alone=sum(tokens / seconds for seconds in pairs["torch"][0]),
        loss_difference=largest_difference(records, ddp_losses, COMPARED_STEPS),
        totals=totals(summary),
    )


def judge(plan: Plan, rounds: list[Round]) -> Result:
    """Return the medians over the rounds."""
    return Result(
        size=plan.name,
        steps=plan.steps,
        psdp_tokens_per_s=statistics.median(r.psdp for r in rounds),
        ddp_tokens_per_s=statistics.median(r.ddp for r in rounds),
        ratio=median([r.ratio for r in rounds]),
        psdp_efficiency=median([r.psdp_efficiency for r in rounds]),
        ddp_efficiency=median([r.ddp_efficiency for r in rounds]),
        largest_loss_difference=max(r.loss_difference for r in rounds),
        rounds=rounds,
    )


HEADER = (
    f"{'size':6}{'psdp tok/s':>11}{'DDP tok/s':>11}  {'psdp / DDP (95 %)':24}"
    f"{'psdp kept (95 %)':24}{'DDP kept (95 %)':24}{'loss diff':>9}"
)


def row(result: Result) -> str:
    """Return the line of the table for a size; 'kept' is the scaling efficiency."""
    return (
        f"{result.size:6}{result.psdp_tokens_per_s:11.0f}{result.ddp_tokens_per_s:11.0f}  "
        f"{result.ratio!s:24}{result.psdp_efficiency!s:24}{result.ddp_efficiency!s:24}"
        f"{result.largest_loss_difference:9.1e}"
    )


def where_time_went(result: Result) -> list[str]:
    """Return lines on psdp's ranks: medians over the rounds, of whole jobs with their warm-up."""
    all_totals = [r.totals for r in result.rounds]
    lines = []
    for rank in all_totals[0].workers:
        parts = [
            f"{time.removesuffix('_s')} "
            f"{statistics.median(t.workers[rank][time] for t in all_totals):.2f} s"
            for time in TIMES
        ]
        lines.append(f"  psdp worker, rank {rank}: {', '.join(parts)}")
    wall_s = statistics.median(t.wall_s for t in all_totals)
    for rank in all_totals[0].server_percent:
        percent = statistics.median(t.server_percent[rank] for t in all_totals)
        lines.append(f"  psdp server, rank {rank}: {percent:.1f} % of a core, in {wall_s:.2f} s")
    return lines


def measure(name: str, steps: int, rounds: int, cores: tuple[int, int]) -> Result:
    """Run all rounds of a size."""
    warmup = max(2, steps // 8)
    with tempfile.TemporaryDirectory(prefix="psdp-bench-") as folder:
        plan = Plan(name, warmup, steps, cores, Path(folder))
        plan.write_corpus()
        done = []
        for number in range(rounds):
            done.append(run_round(plan, backwards=number % 2 == 1))
            print(
                f"{name}, round {number + 1} of {rounds}: {done[-1]}", file=sys.stderr, flush=True
            )
    return judge(plan, done)


def parse() -> argparse.Namespace:
    """Return the options.

    Raises:
        SystemExit: ``--help``, or an option that cannot be.
    """
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    own = sorted(os.sched_getaffinity(0))
    parser.add_argument("--sizes", nargs="+", choices=STEPS, default=list(STEPS))
    parser.add_argument("--rounds", type=int, metavar="N", default=5, help="default 5")
    parser.add_argument(
        "--steps", type=int, metavar="N", help=f"timed steps of every job (default {STEPS})"
    )
    parser.add_argument(
        "--cores", type=int, nargs=2, metavar="CORE", default=own[-2:], help="default: the last two"
    )
    parser.add_argument("--json", metavar="FILE", help="write the results there too")
    options = parser.parse_args()
    if options.rounds < 1 or (options.steps is not None and options.steps < 1):
        parser.error("--rounds and --steps must be at least 1")
    if len(set(options.cores)) < 2 or not set(options.cores) <= set(own):
        parser.error(f"two of this process's cores are needed ({own}), got {options.cores}")
    return options


def main() -> int:
    options = parse()
    # So that a session that is under way is ended, as with Ctrl-C.
    signal.signal(signal.SIGTERM, lambda number, _frame: sys.exit(128 + number))
    os.sched_setaffinity(0, options.cores)
    print(HEADER, flush=True)
    results = []
    try:
        for name in options.sizes:
            steps = options.steps or STEPS[name]
            result = measure(name, steps, options.rounds, tuple(options.cores))
            results.append(result)
            print("\n".join([row(result), *where_time_went(result)]), flush=True)
    except JobFailed as error:
        print(f"a job failed: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 128 + signal.SIGINT
    if options.json:
        Path(options.json).write_text(json.dumps([asdict(r) for r in results], indent=2) + "\n")
    apart = [r.size for r in results if not r.largest_loss_difference < LOSS_TOLERANCE]
    if apart:
        print(f"losses differ by {LOSS_TOLERANCE} or more: {', '.join(apart)}", file=sys.stderr)
    return 1 if apart else 0


if __name__ == "__main__":
    sys.exit(main())
