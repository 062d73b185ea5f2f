"""Failures of running jobs on a schedule from a seed: when, of what kind, to which rank."""

from __future__ import annotations

import os
import random
import signal
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

import breakable
from records import read_records
from session import members

from psdp.checkpoint.layout import CHECKPOINTS, TEMPORARY
from psdp.line import rank_of
from psdp.processes import environment_of

EVAL_EVERY = 100
"""Updates between evaluations."""

LATEST = 1.05
"""The latest moment of a failure, where that of the end of the same job undisturbed is 1."""


class Kind(StrEnum):
    """What a rank may suffer."""

    KILL = "kill"
    CRASH = "crash"
    ABORT = "abort"
    EXIT = "exit"
    RAISE = "raise"
    MEMORY = "memory"
    STOP = "stop"
    SPACE = "space"


SIGNALS = {
    Kind.KILL: signal.SIGKILL,
    Kind.CRASH: signal.SIGSEGV,
    Kind.ABORT: signal.SIGABRT,
    Kind.EXIT: breakable.EXIT,
    Kind.RAISE: breakable.RAISE,
    Kind.MEMORY: breakable.NO_MEMORY,
    Kind.STOP: signal.SIGSTOP,
    Kind.SPACE: breakable.NO_SPACE,
}


class Phase(StrEnum):
    """How far a job had come."""

    START = "start"
    TRAINING = "training"
    EVALUATING = "evaluating"
    SAVING = "saving"
    ENDING = "ending"


@dataclass(frozen=True)
class Shape:
    """What a job is like.

    Attributes:
        standby: each server has one.
        spares: ranks that wait.
    """

    mode: str
    servers: int
    workers: int
    standby: bool
    spares: int

    def __str__(self) -> str:
        extras = ", standby" * self.standby + f", {self.spares} spare(s)" * bool(self.spares)
        return f"{self.mode}, {self.servers} server(s), {self.workers} workers{extras}"

    @property
    def ranks(self) -> int:
        return self.servers * (1 + self.standby) + self.workers + self.spares

    @property
    def working(self) -> range:
        """Ranks that work, or wait to: servers come before them, those that stand by after."""
        return range(self.servers, self.servers + self.workers + self.spares)

    @property
    def flags(self) -> list[str]:
        flags = ["--mode", self.mode, "--servers", str(self.servers)]
        flags += ["--virtual-workers", str(self.workers)]
        # With standbys no record of events can be kept.
        return [*flags, "--standby" if self.standby else "--record"]


@dataclass(frozen=True)
class Failure:
    """One rank's.

    Attributes:
        at: when, from 0 at the start of the job to 1 where it would end undisturbed.
    """

    at: float
    kind: Kind
    rank: int


@dataclass(frozen=True)
class Trial:
    """A job, and what is to happen to it, in that order."""

    number: int
    shape: Shape
    failures: tuple[Failure, ...]


def schedule(
    seed: int,
    count: int,
    shapes: Sequence[Shape],
    kinds: Sequence[Kind],
    most: int = 10,
    *,
    servers_too: bool = True,
) -> Iterator[Trial]:
    """Yield trials with ``count`` failures together, 1 to ``most`` in each and of each rank one at
    most; the same ones for the same arguments.

    Args:
        servers_too: servers and standbys fail, not only ranks that work or wait.
    """
    dice = random.Random(seed)
    number = 0
    while count:
        shape = dice.choice(shapes)
        ranks = range(shape.ranks) if servers_too else shape.working
        losses = min(dice.randint(1, most), count, len(ranks))
        failures = [
            Failure(dice.uniform(0, LATEST), dice.choice(kinds), rank)
            for rank in dice.sample(ranks, losses)
        ]
        yield Trial(number, shape, tuple(sorted(failures, key=lambda failure: failure.at)))
        number += 1
        count -= losses


def strike(session: int, failure: Failure) -> bool:
    """Let a rank of the job in a session fail; say whether it was there."""
    pid = pid_of(session, failure.rank)
    if pid is None:
        return False
    with suppress(ProcessLookupError):
        os.kill(pid, SIGNALS[failure.kind])
    return True


def pid_of(session: int, rank: int) -> int | None:
    """Return the process of a rank of the job in a session, None if there is none."""
    return next((pid for pid in members(session) if rank_of(environment_of(pid)) == rank), None)


def phase_of(run: Path, last_version: int) -> Phase:
    """Return how far the job in a run folder has come, by what it has written.

    Args:
        last_version: with which it ends.
    """
    trained = evaluated = -1
    for record in read_records(run):
        match record["kind"]:
            case "train":
                trained = record["version"]
            case "eval":
                evaluated = record["version"]
    if trained < 0:
        return Phase.START
    if (run / "summary.json").exists() or trained >= last_version:
        return Phase.ENDING
    if any((run / CHECKPOINTS).glob(f"{TEMPORARY}*")):
        return Phase.SAVING
    if trained % EVAL_EVERY == 0 and evaluated < trained:
        return Phase.EVALUATING
    return Phase.TRAINING
