"""Whole training jobs in one process: every rank a thread, the network in memory."""

from __future__ import annotations

import gc
import hashlib
import json
import sys
import threading
import traceback
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from psdp.backend import make_backend
from psdp.checkpoint import CheckpointStore, Snapshot, find_checkpoint, read_manifest, read_span
from psdp.config import Config
from psdp.errors import PeerLost, PsdpError
from psdp.job import Job
from psdp.language import Language
from psdp.params import Array
from psdp.records.console import Console
from psdp.records.folder import RunFolder
from psdp.records.metrics import Best
from psdp.records.profile import Profile
from psdp.records.recorder import Recorder
from psdp.records.replay import Record, Replay, events_file
from psdp.servers.follower import Follower
from psdp.servers.leader import Leader
from psdp.servers.progress import Progress
from psdp.servers.serving import Serving
from psdp.servers.shard import Shard
from psdp.transport import Arrival, Lost
from psdp.transport.in_memory import InMemoryEndpoint, InMemoryNetwork, InMemorySums, Killed
from psdp.transport.shared import Neighbours, SharedMemory, open_memory
from psdp.workers.exchange import Interrupted
from psdp.workers.replica import Replica
from psdp.workers.worker import Worker

VOCAB = 64
TINY: dict[str, Any] = {
    "n_layer": 1,
    "n_head": 2,
    "n_embd": 16,
    "block_size": 8,
    "batch_size": 2,
    "dtype": "float64",
    "max_steps": 6,
    "eval_every": 0,
    "eval_batches": 0,
    "checkpoint_every": 0,
    "keep_checkpoints": 0,
    "log_every": 1,
    "quiet": True,
}
PATIENCE_S = 30.0


def corpus() -> tuple[Array, Array]:
    """Return training tokens with some pattern to learn, and validation tokens all different."""
    rng = np.random.default_rng(3)
    train = (np.arange(2000) * 3 + rng.integers(0, 2, 2000)) % VOCAB
    return train.astype(np.uint8), rng.permutation(VOCAB)[:51].astype(np.uint8)


class _Aborted(BaseException):
    """Another rank ended the whole job."""


@dataclass
class Rank:
    """One rank of a job while it is put together; a test may change what it likes."""

    number: int
    role: Any
    endpoint: InMemoryEndpoint
    error: BaseException | None = None


@dataclass
class Training:
    """One job. ``prepare`` sees every rank before the first message."""

    folder: Path
    workers: int = 1
    resume: Path | None = None
    settings: dict[str, Any] = field(default_factory=dict)
    prepare: Callable[[Training], None] | None = None
    signalled: Callable[[int], str | None] = lambda _rank: None

    def __post_init__(self) -> None:
        config = Config.from_flat(TINY | self.settings).resolved()
        servers = config.run.servers
        size = servers + self.workers
        self._task = Language(config, VOCAB, *corpus())
        self.job = Job(config, size, self._task.table)
        gc.collect()  # the files of earlier jobs, whose ranks refer to one another
        self._memories: dict[int, SharedMemory] = {}
        if config.run.transport != "messages":
            self._memories = {rank: self._memory(rank) for rank in range(size)}
        self._parts = {rank: self._part(rank) for rank in range(size)}
        self.network = InMemoryNetwork(size, self._share())
        self._sums = InMemorySums(self.workers)
        self.store = CheckpointStore(self.folder, config.run.keep_checkpoints)
        self._over = threading.Event()
        self.folder.mkdir(parents=True, exist_ok=True)
        self.ranks = [
            Rank(rank, self._server(rank) if rank < servers else self._worker(rank), endpoint)
            for rank, endpoint in enumerate(self.network.endpoints)
        ]
        for rank in self.ranks:
            self._make_like_mpi(rank.endpoint)
        if self.prepare is not None:
            self.prepare(self)

    # What a test looks at

    @property
    def servers(self) -> list[Serving]:
        roles = [rank.role for rank in self.ranks]
        return [role.serving for role in roles if isinstance(role, Leader | Follower)]

    @property
    def leader(self) -> Leader:
        leader = self.ranks[0].role
        assert isinstance(leader, Leader)
        return leader

    @property
    def progress(self) -> Progress:
        """What is in the weights of rank 0's shard."""
        return self.leader.serving.progress

    def worker(self, number: int) -> Worker:
        """Return a worker by its number, from 0."""
        worker = self.ranks[len(self.servers) + number].role
        assert isinstance(worker, Worker)
        return worker

    def training(self, number: int) -> Any:
        """Return what a worker does between exchanges, of one that always does the same."""
        (training,) = self.worker(number).trainings.values()
        return training

    @property
    def weights(self) -> Array:
        return np.concatenate([server.shard.weights.values for server in self.servers])

    @property
    def weights_sha256(self) -> str:
        return hashlib.sha256(self.weights.tobytes()).hexdigest()

    @property
    def summary(self) -> dict[str, Any]:
        summary: dict[str, Any] = json.loads((self.folder / "summary.json").read_text())
        return summary

    def metrics(self, kind: str) -> list[dict[str, Any]]:
        lines = (self.folder / "metrics.jsonl").read_text().splitlines()
        return [record for line in lines if (record := json.loads(line))["kind"] == kind]

    def checkpoints(self) -> dict[int, Path]:
        return {
            int(path.name.removeprefix("step-")): path
            for path in sorted((self.folder / "checkpoints").glob("step-*"))
        }

    # Running

    def run(self) -> Training:
        """Run to the end; raise what the first rank to fail raised, rank 0 before the others."""
        threads = [
            threading.Thread(
                target=self._live, args=(rank,), name=f"rank {rank.number}", daemon=True
            )
            for rank in self.ranks
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(PATIENCE_S)
            if thread.is_alive():
                hanging = _stacks([t for t in threads if t.is_alive()])
                self._over.set()
                pytest.fail(f"the job hangs:\n{hanging}")
        for rank in self.ranks:
            if rank.error is not None and not isinstance(rank.error, Killed | _Aborted):
                raise rank.error
        return self

    def _live(self, rank: Rank) -> None:
        """As psdp.rank does: a worker that fails says so, and gives rank 0 the time to save."""
        try:
            with np.errstate(all="ignore"):
                rank.role.run()
        except BaseException as error:  # raised again by run, on the test's own thread
            rank.error = error
            if isinstance(error, Killed):
                self.network.kill(rank.number)
                return
            if not isinstance(error, PeerLost | _Aborted):
                status = error.exit_code if isinstance(error, PsdpError) else 1
                with suppress(BaseException):
                    rank.role.fail(error, 143 if isinstance(error, Interrupted) else status)
            self._over.set()

    def _make_like_mpi(self, endpoint: InMemoryEndpoint) -> None:
        """One rank can end all, and a worker hears nothing of other workers."""
        poll, hears = endpoint.poll, range(self.job.world_size)
        if endpoint.rank in self.job.workers:
            hears = self.job.servers

        def like_mpi() -> Arrival | Lost | None:
            if self._over.is_set():
                raise _Aborted
            event = poll()
            return None if event is not None and event.peer not in hears else event

        endpoint.poll = like_mpi  # type: ignore[method-assign]

    # Putting together

    def _memory(self, rank: int) -> SharedMemory:
        if rank in self.job.servers:
            size, dtype = len(self.job.shards[rank]), np.dtype(self.job.config.run.dtype)
        else:
            size, dtype = self.job.payloads[-1].stop, self.job.codec.item
        return SharedMemory(8 + self.workers, size, dtype, pytest.fail)

    def _part(self, rank: int) -> Shard | Replica:
        """Return what a rank may share."""
        memory, dtype = self._memories.get(rank), self.job.config.run.dtype
        zeros = np.zeros if memory is None else memory.zeros
        if rank in self.job.servers:
            return Shard.initial(self.job, rank, zeros)
        return Replica(self.job, self._task, make_backend("cpu", dtype), zeros)

    def _share(self) -> dict[int, Neighbours]:
        """Let servers and workers see one another's memory, as psdp.startup does."""
        cards = {}
        for rank, memory in self._memories.items():
            part = self._parts[rank]
            offered = part.weights.values if isinstance(part, Shard) else part.gradient
            cards[rank] = memory.card(offered)
        neighbours = {}
        for rank, memory in self._memories.items():
            part = self._parts[rank]
            hears = cards.keys() - {rank} if isinstance(part, Shard) else set(self.job.servers)
            windows = {peer: open_memory(cards[peer]) for peer in hears}
            if isinstance(part, Shard) and not self.job.reduces:
                for slot, worker in enumerate(self.job.workers):
                    gradient = windows[worker].vector(self.job.payloads[rank], self.job.codec.item)
                    part.adopt(slot, gradient)
            neighbours[rank] = Neighbours(memory, windows)
        return neighbours

    def _server(self, rank: int) -> Leader | Follower:
        job, run = self.job, self.job.config.run
        endpoint = self.network.endpoints[rank]
        shard = self._parts[rank]
        assert isinstance(shard, Shard)
        store = self.store
        best, snapshot = None, self._snapshot(rank)
        if self.resume is not None:
            manifest = read_manifest(find_checkpoint(self.resume))
            best = Best.from_record(manifest.state["best"])
        if rank:
            serving = Serving(job, endpoint, shard, store, snapshot)
            return Follower(serving, signalled=lambda: self.signalled(rank))
        version, tokens = (0, 0) if snapshot is None else (snapshot.version, snapshot.tokens)
        recorder = Recorder(
            job,
            RunFolder(self.folder),
            Console(job.gradients * job.tokens_per_gradient, tokens, quiet=True),
            version=version,
            tokens=tokens,
            kernels=["numpy"] * job.world_size,
            val_split_units=self._task.validation_split_units,
        )
        if self.resume is not None:
            recorder.resumed()
        version = 0 if snapshot is None else snapshot.version
        record, replay = None, None
        if run.record:
            record = Record(events_file(self.folder, version))
        if run.replay is not None:
            replay = Replay(events_file(Path(run.replay), version))
        serving = Serving(job, endpoint, shard, store, snapshot, profile=Profile())
        return Leader(
            job,
            serving,
            store,
            recorder,
            {"settings": job.config.flat(), "workers": self.workers},
            best=best,
            record=record,
            replay=replay,
            signalled=lambda: self.signalled(rank),
        )

    def _snapshot(self, shard: int) -> Snapshot | None:
        """Return a shard of the checkpoint to go on from."""
        if self.resume is None:
            return None
        manifest = read_manifest(find_checkpoint(self.resume))
        return Snapshot.from_tensors(read_span(manifest, self.job.shards[shard]))

    def _worker(self, rank: int) -> Worker:
        replica, number = self._parts[rank], rank - len(self.job.servers)
        assert isinstance(replica, Replica)
        return Worker(
            self.job,
            self.network.endpoints[rank],
            replica,
            Language(self.job.config, VOCAB, *corpus()),
            reducer=self._sums.reducer(number) if self.job.reduces else None,
            snapshot=self._snapshot(0) if self.job.reduces else None,
            signalled=lambda: self.signalled(rank),
        )


def train(
    folder: Path,
    *,
    workers: int = 1,
    resume: Path | None = None,
    prepare: Callable[[Training], None] | None = None,
    signalled: Callable[[int], str | None] = lambda _rank: None,
    **settings: Any,
) -> Training:
    """Run a whole job to its end and return it."""
    return Training(folder, workers, resume, settings, prepare, signalled).run()


def before_gradient(worker: Worker, action: Callable[[int], None]) -> None:
    """Call ``action(n)`` before a worker computes its n-th gradient (from 0) of this start."""
    count = 0
    compute = worker.replica.model.add_gradient

    def wrapped(*args: Any, **kwargs: Any) -> None:
        nonlocal count
        action(count)
        count += 1
        compute(*args, **kwargs)

    worker.replica.model.add_gradient = wrapped  # type: ignore[method-assign]


def die_at(worker: Worker, gradient: int) -> None:
    """Let a worker die instead of computing its gradient of this number."""

    def action(count: int) -> None:
        if count == gradient:
            raise Killed

    before_gradient(worker, action)


def _stacks(threads: list[threading.Thread]) -> str:
    frames = sys._current_frames()
    return "\n".join(
        f"{thread.name}:\n{''.join(traceback.format_stack(frames[thread.ident])[-6:])}"
        for thread in threads
        if thread.ident in frames
    )
