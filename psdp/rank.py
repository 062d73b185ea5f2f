"""The life of one rank: agree with the others, take a role, run its loop, end them all if it fails.

Ranks 0..K-1 become servers, the others workers.
"""

from __future__ import annotations

import signal
import sys
import time
import traceback
from collections.abc import Mapping
from types import FrameType
from typing import Any

from psdp import __version__
from psdp.checkpoint import CheckpointStore
from psdp.console import Console
from psdp.errors import ConfigError, PsdpError
from psdp.loops.leader import LAST_SAVE_S, Ended, Leader
from psdp.loops.server import Server
from psdp.loops.worker import Interrupted, Worker
from psdp.metrics import Best
from psdp.recorder import Recorder
from psdp.shard import Shard
from psdp.startup import Ready, prepare
from psdp.startup.resume import identity_of
from psdp.transport import Endpoint
from psdp.transport.mpi import World


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
    world = World()
    signals = Signals()
    try:
        _run(world, given, refused, signals)
        return 0
    except Interrupted:
        time.sleep(LAST_SAVE_S + 1)  # rank 0 saves, then ends all ranks
        code = 128 + (signals.number or signal.SIGTERM)
    except Ended as ended:
        print(f"psdp: {ended}", file=sys.stderr, flush=True)
        code = 128 + (signals.number or signal.SIGTERM)
    except PsdpError as error:
        print(f"psdp: rank {world.rank}: {error}", file=sys.stderr, flush=True)
        code = error.exit_code
    except Exception:
        text = f"psdp: rank {world.rank} failed:\n{traceback.format_exc()}"
        print(text, file=sys.stderr, flush=True)
        code = 1
    world.abort(code)
    return code


def _run(
    world: World, given: Mapping[str, Any], refused: ConfigError | None, signals: Signals
) -> None:
    ready = prepare(world, given, refused)
    job = ready.job
    others = set(range(world.size)) - {world.rank}
    if world.rank in job.servers:
        endpoint = world.endpoint(sorted(others))
        _server(ready, endpoint, signals).run()
    else:
        assert ready.reads is not None
        assert ready.backend is not None
        endpoint = world.endpoint(job.servers)
        Worker(
            job,
            endpoint,
            ready.backend,
            ready.corpus.vocab_size,
            ready.reads.batches,
            ready.reads.validation,
            signalled=signals,
        ).run()
    endpoint.close()


def _server(ready: Ready, endpoint: Endpoint, signals: Signals) -> Server:
    """Return the server of this rank, at its start or where the checkpoint was taken."""
    job, run, snapshot = ready.job, ready.job.config.run, ready.snapshot
    shard = Shard.initial(job, endpoint.rank)
    store = CheckpointStore(ready.folder.path, run.keep_checkpoints)
    version, tokens, clocks = 0, 0, {}
    if snapshot is not None:
        shard.restore(snapshot)
        version, tokens, clocks = snapshot.version, snapshot.tokens, snapshot.clocks
    if endpoint.rank != 0:
        return Server(job, endpoint, shard, store, version=version, tokens=tokens, clocks=clocks)
    console = Console(job.pushes * job.tokens_per_push, tokens, quiet=run.quiet)
    console.say(describe(ready))
    best = None if ready.manifest is None else Best.from_record(ready.manifest.state["best"])
    return Leader(
        job,
        endpoint,
        shard,
        store,
        Recorder(job, ready.folder, console, version=version, tokens=tokens),
        identity_of(job, ready.corpus),
        version=version,
        tokens=tokens,
        clocks=clocks,
        best=best,
        signalled=signals,
    )


def describe(ready: Ready) -> str:
    """Return the line that a run begins with."""
    job, config = ready.job, ready.job.config
    text = (
        f"psdp {__version__}: {config.run.mode}, {len(job.servers)} server(s), "
        f"{len(job.workers)} worker(s), {job.table.size:,} parameters; "
        f"{ready.corpus.description}; {job.pushes * job.tokens_per_push:,} tokens to train on; "
        f"results in {ready.folder.path}"
    )
    if ready.manifest is not None:
        text += f"\ngoing on from {ready.manifest.folder}"
    return text
