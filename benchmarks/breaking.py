"""One job that is broken on purpose: run it, break it, and see what comes of it."""

from __future__ import annotations

import json
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from enum import StrEnum
from pathlib import Path

from failing import ENDINGS, Failure, Phase, Running, Shape, Trial
from namespaces import Hosts
from progress import Progress
from records import read_records
from session import end_session, start_session

from psdp.audit.auditing import Audit
from psdp.audit.findings import Verdict as Found
from psdp.checkpoint import CHECKPOINTS, find_checkpoint
from psdp.errors import (
    CheckpointError,
    ConfigError,
    DataError,
    NumericsError,
    ProtocolError,
    PsdpError,
)
from psdp.records.folder import SUMMARY
from psdp.signals import status_after

HERE = Path(__file__).parent
LEASE_S = 3
MODEL = (
    *("--n-layer", "2", "--n-head", "2", "--n-embd", "32", "--block-size", "16"),
    *("--batch-size", "2", "--eval-batches", "32", "--threads", "1", "--dropout", "0.1"),
)
END_S = 60.0
"""How long after its last failure a job may take to end, beyond what the undisturbed one takes."""
LEFT_S = 10.0
"""How long after the end of a job processes of it may be left."""
NEVER = {error.exit_code for error in (ConfigError, DataError, ProtocolError, NumericsError)}
"""Exit statuses of errors to which the loss of a rank must not lead."""


class Outcome(StrEnum):
    """What became of a job."""

    COMPLETED = "completed"
    RESUMED = "resumed"
    """It ended, and was completed from what it had kept."""
    EMPTY = "empty"
    """It ended before there was anything to keep."""
    WRONG = "WRONG"
    HUNG = "HUNG"

    @property
    def good(self) -> bool:
        return self not in (Outcome.WRONG, Outcome.HUNG)


@dataclass(frozen=True)
class Struck:
    """A failure that met its rank, and how far the job had come."""

    failure: Failure
    phase: Phase


@dataclass(frozen=True)
class Verdict:
    """What became of a trial, and why that is so where the job has not completed.

    Attributes:
        goodput: the speed of a job that has completed, where that of the undisturbed one is 1.
    """

    trial: Trial
    struck: tuple[Struck, ...]
    outcome: Outcome
    why: str = ""
    goodput: float | None = None

    def __str__(self) -> str:
        struck = ", ".join(
            f"{each.failure.kind} rank {each.failure.rank} while {each.phase}"
            for each in self.struck
        )
        what = f"{self.trial.number}: {self.trial.shape}: {struck or 'nothing struck'}"
        return f"{what}: {self.outcome}{f' ({self.why})' if self.why else ''}"


@dataclass(frozen=True)
class Length:
    """Of the jobs of a campaign, in updates: how many, and between two checkpoints and
    evaluations."""

    updates: int = 500
    checkpoint_every: int = 40
    eval_every: int = 50


@dataclass(frozen=True)
class Undisturbed:
    """The job of a shape in which nothing fails.

    Attributes:
        start_s: until it trains, in seconds.
        wall_s: that it trains.
        end_s: from the last update to the end of the last process.
        last_version: with which it ends.
    """

    length: Length
    start_s: float
    wall_s: float
    end_s: float
    weights_sha256: str
    last_version: int

    @property
    def seconds(self) -> float:
        return self.start_s + self.wall_s + self.end_s

    def versions(self, updates: int) -> int:
        """Return how many versions so many updates are, of all workers together or of each."""
        return max(1, updates * self.last_version // self.length.updates)

    def progress(self, run: Path) -> Progress:
        """Return how far a job of this shape is, whose run folder this is."""
        return Progress(run, self.last_version, self.versions(self.length.eval_every))


class Failed(Exception):
    """A job, or what it has left, is not as it should be."""


def command(shape: Shape, length: Length, run: Path, *more: str) -> list[str]:
    """Return the command of a job whose ranks can be broken."""
    launch = [sys.executable, "-m", "psdp.launch", "-n", str(shape.ranks)]
    launch += ["--lease-s", str(LEASE_S), str(HERE / "breakable.py")]
    records = ("--log-every", "1", "--eval-every", str(length.eval_every), "--quiet")
    steps = ("--max-steps", str(length.updates))
    kept = ("--checkpoint-every", str(length.checkpoint_every), "--out", str(run))
    return [*launch, *MODEL, *records, *steps, *kept, *shape.flags, *more]


@contextmanager
def running(shape: Shape, words: Sequence[str], output: Path) -> Iterator[Running]:
    """Start a job; nothing of it is left behind."""
    with ExitStack() as stack:
        hosts, environment = None, dict(os.environ)
        if shape.hosts:
            hosts = stack.enter_context(Hosts(shape.hosts + 1))
            words, environment = hosts.launched(words, shape.slots)
        said = stack.enter_context(output.open("ab"))
        process = start_session(words, said, env=environment)
        stack.callback(end_session, process)
        yield Running(process, shape, hosts)


def undisturbed(shape: Shape, length: Length) -> Undisturbed:
    """Run the job of a shape once.

    Raises:
        Failed: it did not end well.
    """
    with tempfile.TemporaryDirectory() as folder:
        run, output, begin_s = Path(folder) / "run", Path(folder) / "output", time.monotonic()
        with running(shape, command(shape, length, run), output) as job:
            progress = Progress(run, 1, 1)
            _wait(lambda: job.ended or progress.phase() is not Phase.START, 0.02, 2 * END_S)
            start_s = time.monotonic() - begin_s
            _wait(lambda: job.ended, 0.02, 10 * END_S)
            seconds = time.monotonic() - begin_s
        if job.process.returncode != 0:
            status = job.process.returncode
            raise Failed(f"{shape}: undisturbed, it ended with {status}:\n{output.read_text()}")
        summary = json.loads((run / SUMMARY).read_text())
        first, *_, last = (each["time_s"] for each in read_records(run) if each["kind"] == "train")
    end_s = max(0.0, seconds - start_s - (last - first))
    whole = summary["weights_sha256"], summary["version"]
    return Undisturbed(length, start_s, summary["wall_s"], end_s, *whole)


def try_out(trial: Trial, plain: Undisturbed, folder: Path) -> Verdict:
    """Run a job, let what fails in it fail, and see what comes of it."""
    run, output, struck = folder / "run", folder / "output", list[Struck]()
    try:
        with running(trial.shape, command(trial.shape, plain.length, run), output) as job:
            for failure in trial.failures:
                if (phase := _strike(job, failure, plain, plain.progress(run))) is not None:
                    struck.append(Struck(failure, phase))
            _wait(lambda: job.ended, 0.05, plain.seconds + END_S)
            status = job.process.wait()
            if not _wait(lambda: not job.processes(), 0.1, LEFT_S, quiet=True):
                raise Failed(f"it ended with {status}, and left {len(job.processes())} processes")
        asked = [ENDINGS[kind] for each in struck if (kind := each.failure.kind) in ENDINGS]
        # A psdp.launch that has only just been started takes no signal yet.
        ends = (0, *map(status_after, asked), *(-number for number in asked))
        if len(asked) == len(struck) and status not in ends:
            raise Failed(f"it ended with {status}:\n{output.read_text(errors='replace')}")
        outcome = _judge(trial.shape, plain, run, status, folder / "resumed")
    except TimeoutError:
        return Verdict(trial, tuple(struck), Outcome.HUNG, _last_line(output))
    except Failed as why:
        return Verdict(trial, tuple(struck), Outcome.WRONG, str(why))
    if outcome is not Outcome.COMPLETED:
        return Verdict(trial, tuple(struck), outcome, f"status {status}: {_last_line(output)}")
    wall_s = json.loads((run / SUMMARY).read_text())["wall_s"]
    return Verdict(trial, tuple(struck), outcome, goodput=plain.wall_s / wall_s)


def _strike(job: Running, failure: Failure, plain: Undisturbed, progress: Progress) -> Phase | None:
    """Let a failure come in its time; return in which phase it met its rank, None if it did not.

    Raises:
        TimeoutError: its time does not come, and the job does not end.
    """

    def until(there: Callable[[], bool], every_s: float = 0.02) -> None:
        _wait(lambda: job.ended or there(), every_s, plain.seconds + END_S)

    match failure.phase:
        case Phase.START:
            time.sleep(max(0.0, job.begun_s + failure.at * plain.start_s - time.monotonic()))
        case Phase.ENDING:
            until(lambda: progress.phase() is Phase.ENDING)
            time.sleep(failure.at * plain.end_s)
        case _:
            until(lambda: progress.phase() is Phase.ENDING or progress.share >= failure.at)
    pid = job.aim(failure)
    if pid is None:
        return None
    if failure.phase in (Phase.EVALUATING, Phase.SAVING):
        until(lambda: progress.phase() in (failure.phase, Phase.ENDING), 0.002)
    phase = progress.phase()
    return phase if job.strike(failure, pid) else None


def _wait(
    there: Callable[[], bool], every_s: float, timeout_s: float, *, quiet: bool = False
) -> bool:
    """Wait until something is so.

    Raises:
        TimeoutError: it is not in time, unless ``quiet``; then that is said.
    """
    deadline_s = time.monotonic() + timeout_s
    while not there():
        if time.monotonic() > deadline_s:
            if quiet:
                return False
            raise TimeoutError
        time.sleep(every_s)
    return True


def _judge(shape: Shape, plain: Undisturbed, run: Path, status: int, resumed: Path) -> Outcome:
    """Say what a job that has ended came to, if that is as it should be.

    Raises:
        Failed: it is not.
        TimeoutError: going on from what it has kept has no end.
    """
    if status == 0:
        _check(shape, run, plain)
        return Outcome.COMPLETED
    if status in NEVER:
        raise Failed(f"ended with {status}, which no failure of a rank explains")
    if not any((run / CHECKPOINTS).glob("step-*")):
        progress = plain.progress(run)
        # The first checkpoint may be under way for as long again.
        first = plain.versions(2 * plain.length.checkpoint_every)
        if progress.phase() is Phase.START or progress.version < first:
            return Outcome.EMPTY
        raise Failed(f"ended with {status}, and has kept nothing of {progress.version} updates")
    try:
        damages: list[str] = []
        find_checkpoint(run, damages.append)
    except CheckpointError as error:
        raise Failed(f"ended with {status}: {error}") from error
    if damages:
        raise Failed(f"ended with {status}: {'; '.join(damages)}")
    here = replace(shape, hosts=0)
    words = command(here, plain.length, run, "--resume", str(run))
    with running(here, words, resumed) as job:
        _wait(lambda: job.ended, 0.05, plain.seconds + END_S)
    if job.process.returncode != 0:
        raise Failed(f"resumed, it ended with {job.process.returncode}: {resumed.read_text()}")
    _check(shape, run, plain)
    return Outcome.RESUMED


def _check(shape: Shape, run: Path, plain: Undisturbed) -> None:
    """See that nothing was lost in a run that is complete.

    Raises:
        Failed: something was, or that cannot be proved.
    """
    weights = json.loads((run / SUMMARY).read_text())["weights_sha256"]
    if shape.exact and weights != plain.weights_sha256:
        raise Failed("the weights are not those of the same job undisturbed")
    try:
        findings = Audit(run).check().all
    except PsdpError as error:
        raise Failed(f"it cannot be audited: {error}") from error
    wrong = [str(each) for each in findings if each.verdict is Found.CONTRADICTED]
    if wrong:
        raise Failed("; ".join(wrong))


def _last_line(output: Path) -> str:
    lines = output.read_text(errors="replace").splitlines()
    return lines[-1] if lines else "it had said nothing"
