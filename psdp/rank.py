"""The life of one rank: agree with the others, take a role, run its loop, end them all if it fails.

Ranks 0..K-1 become servers, the others workers.
"""

from __future__ import annotations

import signal
import sys
import time
import traceback
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np

from psdp import __version__
from psdp.checkpoint import CheckpointStore
from psdp.config import RunConfig
from psdp.errors import ConfigError, PeerLost, PsdpError, StartRefused
from psdp.records.console import Console
from psdp.records.metrics import Best
from psdp.records.recorder import Recorder
from psdp.records.replay import Record, Replay, events_file
from psdp.servers.follower import Follower
from psdp.servers.keeper import leader_of
from psdp.servers.leader import LAST_SAVE_S, Ended
from psdp.servers.server import Server
from psdp.startup import Ready, prepare
from psdp.startup.resume import change_of_schedule, identity_of
from psdp.startup.step import Nothing, Step, take
from psdp.terminal import show_any_text
from psdp.transport import Endpoint
from psdp.transport.link import Link
from psdp.transport.messages import ERROR, SIGNAL
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


def live(given: Mapping[str, Any], refused: ConfigError | None) -> int:
    """Run this rank to its end; return its exit status, or end all ranks if it failed.

    Args:
        given: settings of the command line.
        refused: why the command line could not be read; rank 0 tells it once.
    """
    show_any_text()
    world = MpiWorld()
    signals = Signals()
    try:
        _run(world, given, refused, signals)
    except StartRefused as refusal:
        return refusal.exit_code
    except BaseException as error:
        world.abort(tell(world.rank, error, signals))
    return 0


def tell(rank: int, error: BaseException, signals: Signals) -> int:
    """Print why this rank ends early; return the exit status that says so."""
    match error:
        case Ended() | Interrupted():
            if isinstance(error, Ended):
                print(f"psdp: {error}", file=sys.stderr, flush=True)
            return 128 + (signals.number or signal.SIGTERM)
        case PsdpError():
            print(f"psdp: rank {rank}: {error}", file=sys.stderr, flush=True)
            return error.exit_code
        case _:
            text = f"psdp: rank {rank} failed:\n{''.join(traceback.format_exception(error))}"
            print(text, file=sys.stderr, flush=True)
            return 1


def _run(
    world: World, given: Mapping[str, Any], refused: ConfigError | None, signals: Signals
) -> None:
    ready = prepare(world, given, refused)
    job, others = ready.job, set(range(world.size)) - {world.rank}
    mbps = job.config.run.link_mbps
    peers = sorted(others) if world.rank in job.servers else job.servers
    endpoint = world.endpoint(
        peers, ready.neighbours, Link(mbps) if mbps else None, ready.vectors_on
    )
    reducer = None
    if job.reduces and world.rank in job.workers:
        reducer = world.reducer(job.workers)
    try:
        role, _ = take(world, TakeRole(ready, endpoint, reducer, signals))
    except BaseException:
        ready.folder.withdraw()
        endpoint.close()
        raise
    if isinstance(role, Worker):
        with np.errstate(all="ignore"):  # a gradient with NaN or Inf is found and named by rank 0
            _work(role, world, signals)
    else:
        role.run()
    endpoint.close()


@dataclass(frozen=True)
class TakeRole(Step[Server | Worker, Nothing, None]):
    """The last step of the start: what can still fail before the first message fails here."""

    ready: Ready
    endpoint: Endpoint
    reducer: Reducer | None
    signals: Signals

    facts = Nothing

    def act(self) -> tuple[Server | Worker, Nothing]:
        if self.endpoint.rank in self.ready.job.servers:
            return _server(self.ready, self.endpoint, self.signals), Nothing()
        return _worker(self.ready, self.endpoint, self.reducer, self.signals), Nothing()

    def agree(self, facts: Sequence[Nothing]) -> None:
        pass


def _work(worker: Worker, world: World, signals: Signals) -> None:
    """Run a worker; if it fails, say why, and give rank 0 the time to save before all end."""
    try:
        worker.run()
    except PeerLost:
        raise
    except Exception as error:
        code = tell(world.rank, error, signals)
        worker.exchange.say_goodbye(SIGNAL if isinstance(error, Interrupted) else ERROR, code)
        time.sleep(LAST_SAVE_S + 1)
        world.abort(code)


def _worker(ready: Ready, endpoint: Endpoint, reducer: Reducer | None, signals: Signals) -> Worker:
    """Return the worker of this rank."""
    assert ready.replica is not None
    return Worker(
        ready.job,
        endpoint,
        ready.replica,
        ready.task,
        reducer=reducer,
        snapshot=ready.snapshot,
        signalled=signals,
    )


def _server(ready: Ready, endpoint: Endpoint, signals: Signals) -> Server:
    """Return the server of this rank, at its start or where the checkpoint was taken."""
    job, run, snapshot = ready.job, ready.job.config.run, ready.snapshot
    shard = ready.shard
    assert shard is not None
    store = CheckpointStore(ready.folder.path, run.keep_checkpoints)
    if endpoint.rank != 0:
        return Follower(job, endpoint, shard, store, snapshot, signalled=signals)
    version, tokens = (0, 0) if snapshot is None else (snapshot.version, snapshot.tokens)
    best = None if ready.manifest is None else Best.from_record(ready.manifest.state["best"])
    console = Console(job.tokens, tokens, quiet=run.quiet)
    console.say(describe(ready))
    recorder = Recorder(
        job,
        ready.folder,
        console,
        version=version,
        tokens=tokens,
        transport=ready.links.name,
        kernels=ready.kernels,
        val_split_units=ready.task.validation_split_units,
    )
    if ready.manifest is not None:
        recorder.resumed()
    replay = None if run.replay is None else Replay(events_file(Path(run.replay), version))
    return leader_of(job)(
        job,
        endpoint,
        shard,
        store,
        recorder,
        identity_of(job, ready.corpus),
        snapshot,
        best=best,
        record=Record(events_file(ready.folder.path, version)) if run.record else None,
        replay=replay,
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
        f"{ready.corpus.description}; {job.tokens:,} tokens to train on; "
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
