"""The life of one rank: agree with the others, take a role, run its loop, end them all if it fails.

Ranks 0..K-1 become servers, the others workers, or spare; with --standby the last K hold the shards
too. What only some of them need is imported where it is needed: a spare rank is to be small.
"""

from __future__ import annotations

import signal
import sys
import time
import traceback
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from types import FrameType
from typing import TYPE_CHECKING, Any, Protocol

from psdp.cast import Cast
from psdp.config.duration import seconds_in
from psdp.errors import ConfigError, PeerLost, PsdpError, RunEnded, StartRefused
from psdp.line import Line
from psdp.servers.ending import TIME_LIMIT, Ended
from psdp.signals import heeded
from psdp.startup import Ready, Waiting, prepare
from psdp.startup.asking import Asked, Asking
from psdp.startup.program import LANGUAGE, Program
from psdp.startup.ready import sense_of
from psdp.startup.step import Nothing, Step, take
from psdp.transport import Endpoint
from psdp.transport.link import Link, LinkSpeed
from psdp.transport.reducer import Reducer
from psdp.transport.world import Gone, World
from psdp.workers.listening import Listening
from psdp.workers.spare import Joins, Spare

if TYPE_CHECKING:
    from psdp.job import Job
    from psdp.records.replay import Script
    from psdp.workers.worker import Worker

LAST_S, TICK_S = 5.0, 0.02
"""How long a rank waits for the leader to end before it, and how long at once."""


class Signals:
    """Remembers what first asked this rank to end, a signal or the launcher; the loops look.

    Args:
        line: to the launcher.
    """

    def __init__(self, line: Line) -> None:
        self._line = line
        self._number: int | None = None
        for number in heeded():
            signal.signal(number, self._take)

    def __call__(self) -> str | None:
        if self._number is None:
            self._number = self._line.asked()
        return None if self._number is None else signal.Signals(self._number).name

    def _take(self, number: int, _frame: FrameType | None) -> None:
        if self._number is None:
            self._number = number


class Role(Protocol):
    """What a rank does once all have agreed: serve, lead, compute, or wait to."""

    @property
    def job(self) -> Cast:
        """The job, as this rank knows it by now."""

    @property
    def leads(self) -> bool:
        """Whether this rank leads the run, or has led it to its end."""

    @property
    def replaceable(self) -> bool:
        """Whether others do it if this rank is lost, where the job goes on then."""

    def run(self) -> None:
        """Do it to the end of the run."""

    def leaves_it_to_another(self, error: BaseException) -> bool:
        """Say whether another rank goes on with a shard that this one holds, after an error here:
        one that nobody has meant."""

    def fail(self, error: BaseException, status: int) -> None:
        """Do what is left to do after an error, for the weights to be saved, in a few seconds."""


def why_not(world: World, given: Mapping[str, Any]) -> ConfigError | None:
    """Return why a job cannot be as its settings want it in this world; None if it can."""
    if not given.get("standby") or world.survives:
        return None
    return ConfigError(
        f"--standby: this job ends with the first rank that dies ({world.library}); start it by "
        "python -m psdp.launch (or mpirun --with-ft ulfm) on Open MPI 5 or later, or drop the flag"
    )


def live_in(
    world: World,
    given: Mapping[str, Any],
    refused: ConfigError | None,
    asked: Asked,
    line: Line,
    program: Program = LANGUAGE,
    script: Callable[[Job], Script] | None = None,
) -> int:
    """Run a rank to its end; return its exit status, or end all ranks if it failed.

    Args:
        given: settings of the command line.
        refused: why the command line could not be read; rank 0 tells it once.
        asked: returns the name of a signal by which somebody asked it to end, or None.
        line: to the launcher.
        program: what is trained.
        script: returns what is to happen in a job, and when, if that is known before; it says what
            is slow, and this job is as fast as it can.
    """
    try:
        ready = prepare(world, given, refused, program)
        as_told = None
        if script is not None and isinstance(ready, Ready):
            as_told = partial(script, ready.job)
            ready = replace(ready, job=ready.job.at_full_speed())
        limit = partial(within, ready.cast.config.run.max_time, line.began_s)
        folder = str(ready.folder.path)
        leads = partial(line.training, folder)
        asking = Asking(
            asked, line.gone, limit, leads, line.stands_by, world.survives, line.lease_s, as_told
        )
        role, endpoint = take_role(world, ready, asking)
    except StartRefused as refusal:
        line.ended(refusal.exit_code)
        return refusal.exit_code
    except Gone:
        raise
    except BaseException as error:  # whatever it is, no rank may be left waiting for this one
        status = tell(world.rank, error)
        line.ended(status)
        world.abort(status)
    if world.rank == 0:
        line.training(folder)
    elif world.rank in ready.cast.holders[0]:
        line.stands_by()
    try:
        status = play(world, role, endpoint, line)
    finally:
        ready.folder.let_go()
    if role.leads and status == 0:
        program.finished(ready.folder.path)
    line.ended(status)
    return status


def play(world: World, role: Role, endpoint: Endpoint, line: Line) -> int:
    """Let a rank that is ready do what its role is to its end; return its exit status, or end all
    ranks if it failed."""
    try:
        role.run()
        if world.survives:
            leave_last(endpoint, role.job.leader)
        endpoint.close()
    except Gone:
        raise
    except BaseException as error:
        lost = isinstance(error, PeerLost) and world.rank != role.job.leader
        over = error.exit_code if isinstance(error, RunEnded) else line.over()
        if lost and over is not None:  # and who leads has said why
            world.abort(over, known=True)
        status = tell(world.rank, error)
        left = role.leaves_it_to_another(error)
        replaced = left or (world.survives and role.replaceable)  # others do its work
        line.ended(status, f"{type(error).__name__}: {error}" if replaced and not lost else None)
        if left:
            world.die()
        with suppress(BaseException):
            if not replaced:
                role.fail(error, status)
        world.abort(status, known=lost)
    return 0


def leave_last(endpoint: Endpoint, leader: int) -> None:
    """Wait until the leader has ended, which has more to do than others.

    A rank that exits with a status counts twice for an mpirun of Open MPI, which ends the job with
    as many ends as it has ranks: whoever is left then is cut off.
    """
    deadline_s = time.monotonic() + LAST_S
    while endpoint.rank != leader and not endpoint.has_lost(leader):
        if time.monotonic() >= deadline_s:
            return
        endpoint.receive(TICK_S)


def within(
    max_time: str | None, began_s: float, asked: Asked, now: Callable[[], float] = time.monotonic
) -> Asked:
    """Return what asks a rank to end as ``asked`` does, and when its time is nearly over.

    What is left then is for the last checkpoint: a twentieth, but from 5 to 60 s of it, and at most
    the half.

    Args:
        began_s: when that time began, by the clock ``now``.
    """
    if max_time is None:
        return asked
    limit_s = seconds_in(max_time, TIME_LIMIT)
    end_s = began_s + limit_s - min(limit_s / 2, max(5.0, min(limit_s / 20, 60.0)))

    def look() -> str | None:
        return asked() or (TIME_LIMIT if now() >= end_s else None)

    return look


def tell(rank: int, error: BaseException) -> int:
    """Print why this rank ends early; return the exit status that says so."""
    notes = "".join(f"; {note}" for note in getattr(error, "__notes__", ()))
    match error:
        case Ended():
            print(f"psdp: {error}{notes}", file=sys.stderr, flush=True)
            return error.status
        case PsdpError():
            print(f"psdp: rank {rank}: {error}{notes}", file=sys.stderr, flush=True)
            return error.exit_code
        case KeyboardInterrupt():
            status = 128 + signal.SIGINT
        case SystemExit(code=int(code)) if code & 0xFF:
            status = code & 0xFF  # what the system makes of it
        case _:
            status = 1
    text = f"psdp: rank {rank} failed:\n{''.join(traceback.format_exception(error))}"
    print(text, file=sys.stderr, flush=True)
    return status


def take_role(world: World, ready: Ready | Waiting, asking: Asking) -> tuple[Role, Endpoint]:
    """Return what this rank does from now on, and how it reaches the others.

    Raises:
        StartRefused: it failed on some rank; rank 0 has said why.
    """
    run, rank, holding = ready.cast.config.run, world.rank, ready.cast.holding
    peers = set(range(world.size) if rank in holding else holding)
    link = Link(LinkSpeed.of(run)) if run.link_mbps else None
    near = (ready.neighbours, link, ready.vectors_on) if isinstance(ready, Ready) else (None, link)
    endpoint = world.endpoint(sorted(peers - {rank}), *near)
    if isinstance(ready, Ready):
        endpoint.sense = sense_of(ready.job)
    reducer = None
    if isinstance(ready, Ready) and ready.job.reduces and rank in ready.job.computing:
        reducer = world.reducer(ready.job.computing)
    try:
        role, _ = take(world, TakeRole(ready, endpoint, reducer, asking))
    except BaseException:
        ready.folder.withdraw()
        endpoint.close()
        raise
    return role, endpoint


@dataclass(frozen=True)
class TakeRole(Step[Role, Nothing, None]):
    """The last step of the start: what can still fail before the first message fails here."""

    ready: Ready | Waiting
    endpoint: Endpoint
    reducer: Reducer | None
    asking: Asking

    facts = Nothing

    def act(self) -> tuple[Role, Nothing]:
        return self._role(self.ready), Nothing()

    def _role(self, ready: Ready | Waiting) -> Role:
        if isinstance(ready, Waiting):
            return _spare(ready, self.endpoint, self.asking)
        from psdp.startup.roles import make_holder, make_worker

        if self.endpoint.rank in ready.job.holding:
            return make_holder(ready, self.endpoint, self.asking)
        return make_worker(ready, self.endpoint, self.reducer, self.asking)

    def agree(self, facts: Mapping[int, Nothing]) -> None:
        pass


def _spare(waiting: Waiting, endpoint: Endpoint, asking: Asking) -> Spare:
    """Return what waits on this rank."""

    def compute(job: Cast, listening: Listening) -> Worker:
        from psdp.startup.spare import take_part

        return take_part(waiting, endpoint, asking, job, listening)

    def stand_by(shard: int, listening: Listening) -> Joins:
        from psdp.startup.spare import join

        return join(waiting, endpoint, asking, listening, shard)

    most = waiting.told.weights_bytes
    return Spare(waiting.cast, endpoint, most, compute, stand_by, asking.asked)
