"""Jobs whose ranks fail on a schedule from a seed: do they all complete, and is nothing lost?

    python benchmarks/chaos.py [--seed 1] [--failures 20] [--kinds kill ...] [--modes sync ...]
                               [--standby] [--spares 2] [--json FILE]

Each trial is a job of a tiny model, of a mode and a number of servers that the seed chooses; so are
the ranks that fail in it, the moments (from the start of mpirun until after its end), and how they
fail: killed, a crash, an abort, an exit, an exception, no memory, stopped for ever, no space on the
disk. Of a job that completed, python -m psdp.audit has to prove the record, and where the mode is
exact the weights are to be those of the same job undisturbed, bit for bit. A job that ended instead
must have ended within a minute, and go on to its end, with the same checks, from the checkpoint
that it left. The table says what was tried in which phase of a job, and what became of it.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from enum import StrEnum
from functools import cache
from pathlib import Path

from failing import EVAL_EVERY, Failure, Kind, Phase, Shape, Trial, phase_of, schedule, strike
from records import read_records
from session import end_session, run_session

from psdp.modes import MODES

HERE = Path(__file__).parent
UPDATES = 1000
CHECKPOINT_EVERY = 40
START_SHARE = 0.15
"""Of the moments at which ranks fail, those before a job trains."""
LEASE_S = 3
MODEL = (
    *("--n-layer", "2", "--n-head", "2", "--n-embd", "32", "--block-size", "16"),
    *("--batch-size", "2", "--eval-batches", "4", "--threads", "1", "--dropout", "0.1"),
)
END_S = 60.0
"""How long after its last failure a job may take to end, beyond what the undisturbed one takes."""


class Outcome(StrEnum):
    """What became of a job."""

    COMPLETED = "completed"
    RESUMED = "resumed"
    """It ended, and was completed from what it had kept."""
    EMPTY = "empty"
    """It ended before there was anything to keep."""
    WRONG = "WRONG"
    HUNG = "HUNG"


@dataclass(frozen=True)
class Struck:
    """A failure that met its rank, and how far the job had come."""

    failure: Failure
    phase: Phase


@dataclass(frozen=True)
class Verdict:
    """What became of a trial, and why that is so where it is no good."""

    trial: Trial
    struck: tuple[Struck, ...]
    outcome: Outcome
    why: str = ""

    def __str__(self) -> str:
        struck = ", ".join(
            f"{each.failure.kind} rank {each.failure.rank} while {each.phase}"
            for each in self.struck
        )
        what = f"{self.trial.number}: {self.trial.shape}: {struck or 'nothing struck'}"
        return f"{what}: {self.outcome}{f' ({self.why})' if self.why else ''}"


@dataclass(frozen=True)
class Undisturbed:
    """The job of a shape in which nothing fails.

    Attributes:
        seconds: that it takes; ``start_s`` of them until it trains.
    """

    seconds: float
    start_s: float
    weights_sha256: str
    last_version: int

    def moment_s(self, at: float) -> float:
        """Return when the time of a failure has come, in seconds from the start."""
        if at < START_SHARE:
            return self.start_s * at / START_SHARE
        share = (at - START_SHARE) / (1 - START_SHARE)
        return self.start_s + share * (self.seconds - self.start_s)


class Failed(Exception):
    """A job that nothing disturbs has failed, or its record does not hold."""


def command(shape: Shape, run: Path, *more: str) -> list[str]:
    """Return the command of a job whose ranks can be broken."""
    launch = [sys.executable, "-m", "psdp.launch", "-n", str(shape.ranks)]
    launch += ["--lease-s", str(LEASE_S), str(HERE / "breakable.py")]
    records = ("--log-every", "1", "--eval-every", str(EVAL_EVERY), "--quiet")
    steps = "--max-steps", str(UPDATES), "--checkpoint-every", str(CHECKPOINT_EVERY)
    return [*launch, *MODEL, *records, *steps, *shape.flags, "--out", str(run), *more]


@cache
def undisturbed(shape: Shape) -> Undisturbed:
    """Run the job of a shape once.

    Raises:
        Failed: it did not end well.
    """
    with tempfile.TemporaryDirectory() as folder:
        run, begin_s = Path(folder) / "run", time.monotonic()
        ended = run_session(command(shape, run), timeout_s=10 * END_S)
        seconds = time.monotonic() - begin_s
        if ended.status != 0:
            raise Failed(f"{shape}: undisturbed, it ended with {ended.status}:\n{ended.output}")
        summary = json.loads((run / "summary.json").read_text())
        start_s = seconds - summary["wall_s"]
        return Undisturbed(seconds, start_s, summary["weights_sha256"], summary["version"])


def try_out(trial: Trial, folder: Path) -> Verdict:
    """Run a job, let its ranks fail, and see what comes of it."""
    plain, run = undisturbed(trial.shape), folder / "run"
    with (folder / "output").open("wb") as output:
        job = subprocess.Popen(
            command(trial.shape, run),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            struck = tuple(_break(job, trial, run, plain))
            status: int | None = job.wait(plain.seconds + END_S)
        except subprocess.TimeoutExpired:
            status = None
        finally:
            end_session(job)
    if status is None:
        return Verdict(trial, struck, Outcome.HUNG, _last_line(folder / "output"))
    try:
        return Verdict(trial, struck, _judge(trial.shape, run, status, plain))
    except Failed as why:
        return Verdict(trial, struck, Outcome.WRONG, str(why))


def _break(
    job: subprocess.Popen[bytes], trial: Trial, run: Path, plain: Undisturbed
) -> Iterator[Struck]:
    """Let the ranks of a job fail, each when its time has come; yield what met one."""
    begin_s = time.monotonic()
    for failure in trial.failures:
        left_s = begin_s + plain.moment_s(failure.at) - time.monotonic()
        time.sleep(max(0.0, left_s))
        phase = phase_of(run, plain.last_version)
        if job.poll() is None and strike(job.pid, failure):
            yield Struck(failure, phase)


def _judge(shape: Shape, run: Path, status: int, plain: Undisturbed) -> Outcome:
    """Say what a job that has ended came to, if that is as it should be.

    Raises:
        Failed: it is not.
    """
    if status == 0:
        _check(shape, run, plain)
        return Outcome.COMPLETED
    if not any((run / "checkpoints").glob("step-*")):
        if phase_of(run, plain.last_version) is Phase.START or _version(run) < CHECKPOINT_EVERY:
            return Outcome.EMPTY
        raise Failed(f"ended with {status}, and has kept nothing")
    resumed = run_session(
        command(shape, run, "--resume", str(run)), timeout_s=plain.seconds + END_S
    )
    if resumed.status != 0:
        raise Failed(f"could not be resumed, which ended with {resumed.status}: {resumed.output}")
    _check(shape, run, plain)
    return Outcome.RESUMED


def _version(run: Path) -> int:
    return max(int(record["version"]) for record in read_records(run))


def _check(shape: Shape, run: Path, plain: Undisturbed) -> None:
    """See that nothing was lost in a run that is complete.

    Raises:
        Failed: something was, or that cannot be proved.
    """
    weights = json.loads((run / "summary.json").read_text())["weights_sha256"]
    if MODES[shape.mode].exact and weights != plain.weights_sha256:
        raise Failed("the weights are not those of the same job undisturbed")
    audit = run_session([sys.executable, "-m", "psdp.audit", str(run)], timeout_s=END_S)
    if audit.status != 0:
        raise Failed(f"the audit ended with {audit.status}: {audit.output}")


def _last_line(output: Path) -> str:
    lines = output.read_text(errors="replace").splitlines()
    return lines[-1] if lines else "it had said nothing"


def table(verdicts: Sequence[Verdict]) -> str:
    """Return what was tried in which phase, and what became of the jobs."""
    tried = Counter((each.failure.kind, each.phase) for v in verdicts for each in v.struck)
    lines = [f"{'':8}" + "".join(f"{phase:>12}" for phase in Phase)]
    for kind in Kind:
        counts = [tried[kind, phase] for phase in Phase]
        if any(counts):
            lines.append(f"{kind:8}" + "".join(f"{count:12}" for count in counts))
    outcomes = Counter(verdict.outcome for verdict in verdicts)
    ended = ", ".join(f"{outcomes[outcome]} {outcome}" for outcome in Outcome if outcomes[outcome])
    share = outcomes[Outcome.COMPLETED] / len(verdicts)
    lines.append(f"{len(verdicts)} jobs, {tried.total()} failures: {ended}; {share:.1%} completed")
    return "\n".join(lines)


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    modes = [name for name, mode in MODES.items() if mode.survives_loss]
    parser = argparse.ArgumentParser(description="Let ranks of jobs fail, from a seed.")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--failures", type=int, default=20, help="of all jobs together")
    parser.add_argument("--most", type=int, default=3, help="failures of one job at most")
    parser.add_argument("--kinds", nargs="+", type=Kind, choices=list(Kind), default=[Kind.KILL])
    parser.add_argument("--modes", nargs="+", choices=modes, default=modes)
    parser.add_argument("--servers", nargs="+", type=int, default=[1, 2])
    parser.add_argument("--workers", type=int, default=3)
    parser.add_argument("--spares", type=int, default=1)
    parser.add_argument("--standby", action="store_true", help="for servers, which fail too")
    parser.add_argument("--keep", type=Path, help="folder for what jobs left that are no good")
    parser.add_argument("--json", type=Path, help="file for all verdicts")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    args = parse(argv)
    shapes = [
        Shape(mode, servers, args.workers, args.standby, args.spares)
        for mode in args.modes
        for servers in args.servers
    ]
    plan = args.seed, args.failures, shapes, args.kinds, args.most
    verdicts = []
    for trial in schedule(*plan, servers_too=args.standby):
        with tempfile.TemporaryDirectory() as folder:
            verdict = try_out(trial, Path(folder))
            if args.keep is not None and verdict.outcome in (Outcome.WRONG, Outcome.HUNG):
                args.keep.mkdir(parents=True, exist_ok=True)
                Path(folder).rename(args.keep / str(trial.number))
                Path(folder).mkdir()
        verdicts.append(verdict)
        print(verdict, flush=True)
    print(table(verdicts))
    if args.json is not None:
        args.json.write_text(json.dumps([asdict(verdict) for verdict in verdicts], indent=1))
    good = all(v.outcome not in (Outcome.WRONG, Outcome.HUNG) for v in verdicts)
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
