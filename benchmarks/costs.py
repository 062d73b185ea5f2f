"""What being ready for failures costs a job in which nothing fails: its tokens/s with leases, or
with who stands by for the server, as a share of the same job's without.

    python benchmarks/costs.py {leases,standby} [--mode sync] [--size nano] [--pairs 10]

A pair is two jobs of a server and two workers, one after the other; every other pair runs them
backwards, so that what slows the machine for a while slows both. The clock runs over the steps
after a warm-up; nothing is evaluated or saved meanwhile. Of use on a machine that does nothing
else.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from intervals import Median, median
from records import read_train_records, tokens_per_s
from sides import JobFailed, Plan, psdp_command, run
from training import SIZES

WARMUP = 10
READY: Mapping[str, tuple[Sequence[str], Sequence[str]]] = {
    "leases": (["--lease-s", "30"], ["--lease-s", "0"]),
    "standby": (["--standby"], []),
}
"""The flags of a job that is ready for what its name says, and of one that is not."""


@dataclass(frozen=True)
class Pair:
    """Tokens/s of two jobs."""

    ready: float
    plain: float

    @property
    def cost(self) -> float:
        """The share of the speed that being ready takes."""
        return 1 - self.ready / self.plain


def command(plan: Plan, out: Path, mode: str, flags: Sequence[str]) -> list[str]:
    """Return the command of a job."""
    words = psdp_command(plan, out)
    words[words.index("--mode") + 1] = mode
    at = words.index("-n") + 1
    words[at] = str(int(words[at]) + ("--standby" in flags))
    return [*words, *flags]


def speed(plan: Plan, mode: str, flags: Sequence[str]) -> float:
    """Return the tokens/s of a job.

    Raises:
        JobFailed: it did not end well.
    """
    with tempfile.TemporaryDirectory(dir=plan.folder) as folder:
        out = Path(folder) / "run"
        run(command(plan, out, mode, flags), plan)
        records = read_train_records(out)
    first = next(each for each in records if each.version >= plan.warmup)
    return tokens_per_s(records, first.version, records[-1].version)


def run_pair(plan: Plan, mode: str, what: str, *, backwards: bool) -> Pair:
    """Run the two jobs of a pair.

    Raises:
        JobFailed: one of them.
    """
    ready, plain = READY[what]
    if backwards:
        without = speed(plan, mode, plain)
        return Pair(speed(plan, mode, ready), without)
    return Pair(speed(plan, mode, ready), speed(plan, mode, plain))


def cost(pairs: Sequence[Pair]) -> Median:
    """Return the median of what being ready costs."""
    return median([pair.cost for pair in pairs])


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="What being ready for failures costs.")
    parser.add_argument("what", choices=READY)
    parser.add_argument("--mode", choices=["sync", "async"], default="sync")
    parser.add_argument("--size", choices=SIZES, default="nano")
    parser.add_argument("--steps", type=int, default=150, help="timed, of each job")
    parser.add_argument("--pairs", type=int, default=10)
    parser.add_argument("--json", type=Path, metavar="FILE")
    args = parser.parse_args(argv)
    pairs: list[Pair] = []
    with tempfile.TemporaryDirectory() as folder:
        plan = Plan(args.size, WARMUP, args.steps, cores=(0, 1), folder=Path(folder))
        plan.write_corpus()
        try:
            for number in range(args.pairs):
                pairs.append(run_pair(plan, args.mode, args.what, backwards=number % 2 == 1))
                print(f"pair {number}: {pairs[-1].cost:+.3f} of {pairs[-1].plain:.0f}", flush=True)
        except JobFailed as failed:
            print(f"costs.py: {failed}", file=sys.stderr)
            return 1
    print(f"{args.what} cost {cost(pairs)} of the tokens/s of {args.size} in {args.mode} (95 %)")
    if args.json is not None:
        args.json.write_text(json.dumps([asdict(pair) for pair in pairs], indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
