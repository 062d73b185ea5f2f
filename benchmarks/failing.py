"""Failures of running jobs on a schedule from a seed: when, of what kind, to which rank."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from enum import StrEnum

import breakable
from namespaces import Hosts
from session import members

from psdp.line import rank_of
from psdp.modes import MODES
from psdp.processes import environment_of


class Kind(StrEnum):
    """What may happen: to a rank, to its host, or to the whole job."""

    KILL = "kill"
    CRASH = "crash"
    ABORT = "abort"
    EXIT = "exit"
    RAISE = "raise"
    MEMORY = "memory"
    STOP = "stop"
    SPACE = "space"
    HOST = "host"
    LINK = "link"
    TERM = "term"
    HUP = "hup"
    USR1 = "usr1"

    @property
    def of_rank(self) -> bool:
        """Whether it happens to one rank, or to all that are on its host."""
        return self not in ENDINGS


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
"""By which a rank fails."""

ENDINGS = {Kind.TERM: signal.SIGTERM, Kind.HUP: signal.SIGHUP, Kind.USR1: signal.SIGUSR1}
"""By which the job is asked to end, of its psdp.launch."""

ON_HOSTS = (Kind.HOST, Kind.LINK)

ROLES = ("server", "worker", "standby")
"""That a rank begins in; a spare one is a worker."""


class Phase(StrEnum):
    """How far a job has come."""

    START = "start"
    TRAINING = "training"
    EVALUATING = "evaluating"
    SAVING = "saving"
    ENDING = "ending"


SHARES = {
    Phase.START: 0.15,
    Phase.TRAINING: 0.4,
    Phase.EVALUATING: 0.15,
    Phase.SAVING: 0.15,
    Phase.ENDING: 0.15,
}
"""How many of all failures are to come in each phase."""


@dataclass(frozen=True)
class Shape:
    """What a job is like.

    Attributes:
        standby: each server has one.
        spares: ranks that wait.
        hosts: that its ranks are spread over; 0: all are here. The launcher has one more of its
            own.
    """

    mode: str
    servers: int
    workers: int
    standby: bool = False
    spares: int = 0
    hosts: int = 0

    def __str__(self) -> str:
        extras = ", standby" * self.standby + f", {self.spares} spare(s)" * bool(self.spares)
        extras += f", {self.hosts} hosts" * bool(self.hosts)
        return f"{self.mode}, {self.servers} server(s), {self.workers} workers{extras}"

    @property
    def exact(self) -> bool:
        """Whether the weights depend on nothing that happens to its ranks."""
        return MODES[self.mode].exact

    @property
    def ranks(self) -> int:
        return self.servers * (1 + self.standby) + self.workers + self.spares

    @property
    def working(self) -> range:
        """Ranks that work, or wait to: servers come before them, those that stand by after."""
        return range(self.servers, self.servers + self.workers + self.spares)

    def role(self, rank: int) -> str:
        """Return what a rank begins as."""
        server, worker, standby = ROLES
        if rank in self.working:
            return worker
        return server if rank < self.servers else standby

    @property
    def slots(self) -> list[int]:
        """How many ranks are on each of the hosts, which are filled one after the other."""
        some, more = divmod(self.ranks, self.hosts)
        return [some + (host < more) for host in range(self.hosts)]

    def host_of(self, rank: int) -> int:
        """Return the host that a rank is on, from 1: host 0 is the launcher's."""
        return next(host for host in range(1, self.hosts + 1) if rank < sum(self.slots[:host]))

    @property
    def flags(self) -> list[str]:
        flags = ["--mode", self.mode, "--servers", str(self.servers)]
        flags += ["--virtual-workers", str(self.workers), "--max-failures", str(self.ranks)]
        return [*flags, "--record", *(["--standby"] if self.standby else [])]


@dataclass(frozen=True)
class Failure:
    """One rank's, or what the whole job is asked.

    Attributes:
        phase: in which it is to come.
        at: when, from 0 to 1: at which share of the time that the start takes, or the end, and
            between them of the updates.
    """

    phase: Phase
    at: float
    kind: Kind
    rank: int

    @property
    def order(self) -> tuple[int, float]:
        """Failures with less of it come first."""
        return (self.phase is not Phase.START) + (self.phase is Phase.ENDING), self.at


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
    roles: Sequence[str] = ROLES,
) -> Iterator[Trial]:
    """Yield trials with ``count`` failures together, 1 to ``most`` in each and of each rank one at
    most; the same ones for the same arguments.

    Args:
        roles: of the ranks that fail.
    """
    dice = random.Random(seed)
    number = 0
    while count:
        shape = dice.choice(shapes)
        ranks = [rank for rank in range(shape.ranks) if shape.role(rank) in roles]
        losses = min(dice.randint(1, most), count, len(ranks))
        phases = dice.choices(list(SHARES), list(SHARES.values()), k=losses)
        failures = [
            Failure(phase, dice.random(), dice.choice(kinds), rank)
            for phase, rank in zip(phases, dice.sample(ranks, losses), strict=True)
        ]
        yield Trial(number, shape, tuple(sorted(failures, key=lambda failure: failure.order)))
        number += 1
        count -= losses


class Running:
    """A job at work, whose ranks can be made to fail.

    Args:
        process: of psdp.launch, in a session of its own.
        hosts: that the ranks are on, if not all are here.

    Attributes:
        begun_s: when it was started, by the monotonic clock.
    """

    def __init__(
        self, process: subprocess.Popen[bytes], shape: Shape, hosts: Hosts | None = None
    ) -> None:
        self.process = process
        self.begun_s = time.monotonic()
        self._shape = shape
        self._hosts = hosts

    @property
    def ended(self) -> bool:
        return self.process.poll() is not None

    def processes(self) -> list[int]:
        """Return all that are left of it."""
        hosts = () if self._hosts is None else range(self._hosts.count)
        there = (self._hosts.processes(host) for host in hosts if self._hosts is not None)
        return sorted({*members(self.process.pid), *(pid for some in there for pid in some)})

    def aim(self, failure: Failure) -> int | None:
        """Return the process that a failure is to meet, None if it is not there."""
        return (
            self.process.pid if failure.kind in ENDINGS else pid_of(self.processes(), failure.rank)
        )

    def strike(self, failure: Failure, pid: int) -> bool:
        """Let a failure meet the process that it was aimed at; say whether it was still there."""
        if self.ended or not (failure.kind in ENDINGS or _is(pid, failure.rank)):
            return False
        if self._hosts is not None and failure.kind in ON_HOSTS:
            host = self._shape.host_of(failure.rank)
            if failure.kind is Kind.HOST:
                self._hosts.kill(host)
            else:
                self._hosts.cut_off(host)
            return True
        with suppress(ProcessLookupError):
            os.kill(pid, (SIGNALS | ENDINGS)[failure.kind])
            return True
        return False


def pid_of(pids: Iterable[int], rank: int) -> int | None:
    """Return which of the processes of a job a rank is, None if there is none."""
    return next((pid for pid in pids if _is(pid, rank)), None)


def _is(pid: int, rank: int) -> bool:
    return rank_of(environment_of(pid)) == rank
