"""The life of one rank: agree with the others, take a role, run its loop, end them all if it fails.

Ranks 0..K-1 become servers, the others workers.
"""

from __future__ import annotations

import signal
import sys
import traceback
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any, Protocol

from psdp import __version__
from psdp.checkpoint import CheckpointStore
from psdp.config import RunConfig
from psdp.errors import ConfigError, PsdpError, StartRefused
from psdp.nn.profile import clock_of
from psdp.records.console import Console
from psdp.records.metrics import Best
from psdp.records.profile import Profile
from psdp.records.recorder import Recorder
from psdp.records.replay import Record, Replay, events_file
from psdp.servers.ending import Ended
from psdp.servers.follower import Follower
from psdp.servers.leader import Leader
from psdp.servers.serving import Serving
from psdp.startup import Ready, prepare
from psdp.startup.program import LANGUAGE, Program
from psdp.startup.resume import change_of_schedule
from psdp.startup.step import Nothing, Step, take
from psdp.terminal import show_any_text
from psdp.transport import Endpoint
from psdp.transport.link import Link
from psdp.transport.mpi import MpiWorld
from psdp.transport.reducer import Reducer
from psdp.transport.world import World
from psdp.workers.exchange import Interrupted
from psdp.workers.worker import Worker


class Signals:
    """Remembers the first SIGINT or SIGTERM; the loops look."""

    def __init__(self) -> None:
        self.number: int | None = None
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, self._take)

    def __call__(self) -> str | None:
        return None if self.number is None else signal.Signals(self.number).name

    def _take(self, number: int, _frame: FrameType | None) -> None:
        if self.number is None:
            self.number = number


class Asked(Protocol):
    """Whether somebody asked this rank to end.

    Attributes:
        number: of the signal by which; None if nobody did.
    """

    number: int | None

    def __call__(self) -> str | None:
        """Return the name of that signal, or None."""


class Role(Protocol):
    """What a rank does once all have agreed: serve, lead, or compute."""

    def run(self) -> None:
        """Do it to the end of the run."""

    def fail(self, error: BaseException, status: int) -> None:
        """Do what is left to do after an error, for the weights to be saved, in a few seconds."""


def live(given: Mapping[str, Any], refused: ConfigError | None, program: Program = LANGUAGE) -> int:
    """Run this rank of an MPI job to its end; return its exit status, or end all ranks if it
    failed.

    Args:
        given: settings of the command line.
        refused: why the command line could not be read; rank 0 tells it once.
        program: what is trained.
    """
    show_any_text()
    return live_in(MpiWorld(), given, refused, Signals(), program)


def live_in(
    world: World,
    given: Mapping[str, Any],
    refused: ConfigError | None,
    signals: Asked,
    program: Program = LANGUAGE,
) -> int:
    """Run a rank of any world to its end, as :func:`live` does."""
    try:
        ready = prepare(world, given, refused, program)
        role, endpoint = take_role(world, ready, signals)
    except StartRefused as refusal:
        return refusal.exit_code
    except BaseException as error:  # whatever it is, no rank may be left waiting for this one
        world.abort(tell(world.rank, error, signals))
    try:
        status = play(world, role, endpoint, signals)
    finally:
        ready.folder.let_go()
    if world.rank == 0 and status == 0:
        program.finished(ready.folder.path)
    return status


def play(world: World, role: Role, endpoint: Endpoint, signals: Asked) -> int:
    """Let a rank that is ready do what its role is to its end; return its exit status, or end all
    ranks if it failed."""
    try:
        role.run()
        endpoint.close()
    except BaseException as error:
        status = tell(world.rank, error, signals)
        with suppress(BaseException):
            role.fail(error, status)
        world.abort(status)
    return 0


def tell(rank: int, error: BaseException, signals: Asked) -> int:
    """Print why this rank ends early; return the exit status that says so."""
    notes = "".join(f"; {note}" for note in getattr(error, "__notes__", ()))
    match error:
        case Ended() | Interrupted():
            if isinstance(error, Ended):
                print(f"psdp: {error}{notes}", file=sys.stderr, flush=True)
            return 128 + (signals.number or signal.SIGTERM)
        case PsdpError():
            print(f"psdp: rank {rank}: {error}{notes}", file=sys.stderr, flush=True)
            return error.exit_code
        case KeyboardInterrupt():
            status = 128 + signal.SIGINT
        case SystemExit(code=int(status)) if status:
            pass
        case _:
            status = 1
    text = f"psdp: rank {rank} failed:\n{''.join(traceback.format_exception(error))}"
    print(text, file=sys.stderr, flush=True)
    return status


def take_role(world: World, ready: Ready, signals: Asked) -> tuple[Role, Endpoint]:
    """Return what this rank does from now on, and how it reaches the others.

    Raises:
        StartRefused: it failed on some rank; rank 0 has said why.
    """
    job, mbps = ready.job, ready.job.config.run.link_mbps
    peers = set(range(world.size)) if world.rank in job.servers else set(job.servers)
    link = Link(mbps) if mbps else None
    endpoint = world.endpoint(
        sorted(peers - {world.rank}), ready.neighbours, link, ready.vectors_on
    )
    reducer = None
    if not job.mode.served and world.rank in job.workers:
        reducer = world.reducer(job.workers)
    try:
        role, _ = take(world, TakeRole(ready, endpoint, reducer, signals))
    except BaseException:
        ready.folder.withdraw()
        endpoint.close()
        raise
    return role, endpoint


@dataclass(frozen=True)
class TakeRole(Step[Role, Nothing, None]):
    """The last step of the start: what can still fail before the first message fails here."""

    ready: Ready
    endpoint: Endpoint
    reducer: Reducer | None
    signals: Asked

    facts = Nothing

    def act(self) -> tuple[Role, Nothing]:
        if self.endpoint.rank in self.ready.job.servers:
            return _server(self.ready, self.endpoint, self.signals), Nothing()
        return _worker(self.ready, self.endpoint, self.reducer, self.signals), Nothing()

    def agree(self, facts: Sequence[Nothing]) -> None:
        pass


def _worker(ready: Ready, endpoint: Endpoint, reducer: Reducer | None, signals: Asked) -> Worker:
    """Return the worker of this rank."""
    assert ready.replica is not None
    return Worker(
        ready.job,
        endpoint,
        ready.replica,
        reducer=reducer,
        snapshot=ready.snapshot,
        signalled=signals,
    )


def _server(ready: Ready, endpoint: Endpoint, signals: Asked) -> Leader | Follower:
    """Return the server of this rank, at its start or where the checkpoint was taken."""
    job, run, snapshot = ready.job, ready.job.config.run, ready.snapshot
    assert ready.shard is not None
    folder = ready.folder
    store = CheckpointStore(folder.path, run.keep_checkpoints, folder.token, folder.check)
    if endpoint.rank != 0:
        serving = Serving(job, endpoint, ready.shard, store, snapshot)
        return Follower(serving, signalled=signals)
    profile = Profile(clock_of(ready.shard.backend))
    serving = Serving(job, endpoint, ready.shard, store, snapshot, profile=profile)
    version, units = serving.progress.version, serving.progress.units
    best = None if ready.manifest is None else Best.from_record(ready.manifest.state["best"])
    console = Console(job.units, units, name=job.units_name, quiet=run.quiet)
    console.say(describe(ready))
    recorder = Recorder(
        job,
        folder,
        console,
        version=version,
        units=units,
        transport=ready.links.name,
        kernels=ready.kernels,
        val_split_units=job.task.validation_split_units or job.task.validation_units,
    )
    if ready.manifest is not None:
        recorder.resumed()
    return Leader(
        job,
        serving,
        store,
        recorder,
        ready.identity,
        best=best,
        record=Record(events_file(folder.path, version), folder.check) if run.record else None,
        replay=None if run.replay is None else Replay(events_file(Path(run.replay), version)),
        signalled=signals,
    )


def describe(ready: Ready) -> str:
    """Return the line that a run begins with."""
    job, config = ready.job, ready.job.config
    kernels = " and ".join(sorted({ready.kernels[worker] for worker in job.workers}))
    text = (
        f"psdp {__version__}: {config.run.mode}, {len(job.servers)} server(s), "
        f"{len(job.workers)} worker(s), {job.table.size:,} parameters, {ready.links.describe()}"
        f"{', gradients by MPI Allreduce' if job.reduces else ''}"
        f"{f', pushed {job.codec.said}' if job.codec.said else ''}, "
        f"{kernels} kernels; "
        f"{job.task.description or job.task.called()}; "
        f"{job.units:,} {job.units_name} to train on; "
        f"results in {ready.folder.path}"
    )
    slow = slowed(config.run)
    if slow:
        text += f"\nSLOWED DOWN ON PURPOSE: {slow}"
    if ready.manifest is not None:
        text += f"\ngoing on from {ready.manifest.folder}"
        change = change_of_schedule(job, ready.manifest)
        text += "" if change is None else f"\n{change}"
    return text


def slowed(run: RunConfig) -> str:
    """Return what slows this run down on purpose; nothing if nothing does."""
    slow = []
    if run.straggler is not None:
        slow.append(f"stragglers {run.straggler} (rank:factor)")
    if run.jitter is not None:
        slow.append(f"every step by {run.jitter}")
    if run.link_mbps:
        slow.append(f"links of {run.link_mbps:g} Mbit/s")
    return ", ".join(slow)
