"""Jobs whose ranks fail on a schedule from a seed: do they all complete, and is nothing lost?

    python benchmarks/chaos.py [--seed 1] [--failures 20] [--kinds kill ...] [--modes sync ...]
                               [--roles worker ...] [--standby] [--spares 1] [--hosts 3]
                               [--at-once 2] [--json FILE]

Each trial is a job of a tiny model, of a mode and a number of servers that the seed chooses; so are
the ranks that fail in it, the moments (from the start of mpirun until after its end: a share of
them in each phase), and what happens: killed, a crash, an abort, an exit, an exception, no memory,
stopped for ever, no space on the disk; with --hosts, in network namespaces of which mpirun has one
of its own, a host killed or cut off; or a signal to psdp.launch that asks the job to end. Of a job
that completed, the audit has to prove the record, and where the mode is exact the weights are to be
those of the same job undisturbed, bit for bit. A job that ended instead must have ended within a
minute, its newest checkpoint must be whole, and it must go on to its end from there, with the same
checks. Nothing of a job may be left. The table says what was tried in which phase of a job, and
what became of it.
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import sys
import tempfile
from collections import Counter
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path

from breaking import Length, Outcome, Undisturbed, Verdict, try_out, undisturbed
from failing import ON_HOSTS, ROLES, Kind, Phase, Shape, Trial, schedule

from psdp.modes import MODES


def table(verdicts: Sequence[Verdict]) -> str:
    """Return what was tried on whom in which phase, and what became of the jobs."""
    tried, became = Counter[tuple[str, Phase]](), Counter[tuple[str, Outcome]]()
    for verdict in verdicts:
        for each in verdict.struck:
            role = verdict.trial.shape.role(each.failure.rank)
            what = each.failure.kind + (f" {role}" if each.failure.kind.of_rank else "")
            tried[what, each.phase] += 1
            became[what, verdict.outcome] += 1
    lines = [f"{'':15}" + "".join(f"{head:>11}" for head in (*Phase, *Outcome))]
    for what in sorted({what for what, _ in tried}):
        counts = [tried[what, phase] for phase in Phase]
        counts += [became[what, outcome] for outcome in Outcome]
        lines.append(f"{what:15}" + "".join(f"{count:11}" for count in counts))
    outcomes = Counter(verdict.outcome for verdict in verdicts)
    ended = ", ".join(f"{outcomes[outcome]} {outcome}" for outcome in Outcome if outcomes[outcome])
    share = outcomes[Outcome.COMPLETED] / len(verdicts)
    lines.append(f"{len(verdicts)} jobs, {tried.total()} failures: {ended}; {share:.1%} completed")
    if goodputs := [each.goodput for each in verdicts if each.goodput and each.struck]:
        text = (
            f"speed of those that completed, of the undisturbed: {statistics.median(goodputs):.2f}"
        )
        lines.append(f"{text} (median)")
    return "\n".join(lines)


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    modes = [name for name, mode in MODES.items() if mode.survives_loss]
    length = Length()
    parser = argparse.ArgumentParser(description="Let ranks of jobs fail, from a seed.")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--failures", type=int, default=20, help="of all jobs together")
    parser.add_argument("--most", type=int, default=3, help="failures of one job at most")
    parser.add_argument("--kinds", nargs="+", type=Kind, choices=list(Kind), default=[Kind.KILL])
    parser.add_argument("--roles", nargs="+", choices=ROLES, help="(default: all that can)")
    parser.add_argument("--modes", nargs="+", choices=modes, default=modes)
    parser.add_argument("--servers", nargs="+", type=int, default=[1, 2])
    parser.add_argument("--workers", type=int, default=3)
    parser.add_argument("--spares", type=int, default=1)
    parser.add_argument("--standby", action="store_true", help="for servers, which fail too")
    parser.add_argument("--hosts", type=int, default=0, help="for ranks; needs root and iproute2")
    parser.add_argument("--updates", type=int, default=length.updates, help="of a job")
    parser.add_argument("--checkpoint-every", type=int, default=length.checkpoint_every)
    parser.add_argument("--at-once", type=int, default=1, help="jobs")
    parser.add_argument("--keep", type=Path, help="folder for what jobs left that are no good")
    parser.add_argument("--json", type=Path, help="file for all verdicts")
    args = parser.parse_args(argv)
    if not args.hosts and set(args.kinds) & set(ON_HOSTS):
        parser.error(f"{' and '.join(ON_HOSTS)} need --hosts")
    args.roles = args.roles or (ROLES if args.standby else ["worker"])
    return args


def run_trial(trial: Trial, plain: Mapping[Shape, Undisturbed], keep: Path | None) -> Verdict:
    """Run a trial, and say what came of it."""
    with tempfile.TemporaryDirectory() as folder:
        verdict = try_out(trial, plain[trial.shape], Path(folder))
        if keep is not None and not verdict.outcome.good:
            shutil.copytree(folder, keep / str(trial.number), dirs_exist_ok=True)
    print(verdict, flush=True)
    return verdict


def main(argv: Sequence[str] | None = None) -> int:
    args = parse(argv)
    shapes = [
        Shape(mode, servers, args.workers, args.standby, args.spares, args.hosts)
        for mode in args.modes
        for servers in args.servers
    ]
    length = Length(args.updates, args.checkpoint_every)
    trials = list(
        schedule(args.seed, args.failures, shapes, args.kinds, args.most, roles=args.roles)
    )
    used = list(dict.fromkeys(trial.shape for trial in trials))
    with ThreadPoolExecutor(args.at_once) as pool:
        plain = dict(
            zip(used, pool.map(lambda shape: undisturbed(shape, length), used), strict=True)
        )
        verdicts = list(pool.map(lambda trial: run_trial(trial, plain, args.keep), trials))
    print(table(verdicts))
    if args.json is not None:
        args.json.write_text(json.dumps([asdict(verdict) for verdict in verdicts], indent=1))
    return 0 if all(verdict.outcome.good for verdict in verdicts) else 1


if __name__ == "__main__":
    sys.exit(main())
