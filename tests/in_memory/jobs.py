"""Whole training jobs in one process: every rank is a thread, and lives as it does under MPI."""

from __future__ import annotations

import gc
import hashlib
import itertools
import json
import time
import tracemalloc
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import pytest

from psdp.errors import StartRefused
from psdp.job import Job
from psdp.line import Line
from psdp.params import Array
from psdp.rank import Role, play, take_role
from psdp.servers.follower import Follower
from psdp.servers.leader import Leader
from psdp.servers.progress import Progress
from psdp.servers.serving import Serving
from psdp.servers.terms import Terms
from psdp.startup import Ready, Waiting, prepare
from psdp.startup.asking import Asking
from psdp.transport.in_memory import Aborted, InMemoryEndpoint, InMemoryNetwork, Killed
from psdp.transport.in_memory_world import InMemoryWorlds
from psdp.transport.world import World
from psdp.workers.spare import Spare
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
    "threads": 1,
    "kernels": "numpy",
    "vocab_size": VOCAB,
    "val_fraction": 51.5 / 2051,
}
PATIENCE_S = 30.0

gc.freeze()  # what is there by now stays: to look at all of it again takes longer than a job


def corpus() -> tuple[Array, Array]:
    """Return training tokens with some pattern to learn, and validation tokens all different."""
    rng = np.random.default_rng(3)
    train = (np.arange(2000) * 3 + rng.integers(0, 2, 2000)) % VOCAB
    return train.astype(np.uint8), rng.permutation(VOCAB)[:51].astype(np.uint8)


def corpus_file(folder: Path) -> Path:
    """Return a file of these tokens."""
    path = folder / "corpus.npy"
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        np.save(path, np.concatenate(corpus()))
    return path


@dataclass
class Rank:
    """One rank of a job that is ready for its first message; a test may change what it likes."""

    number: int
    ready: Ready | Waiting
    role: Role
    endpoint: InMemoryEndpoint
    error: BaseException | None = None


@dataclass
class Training:
    """One job. ``prepare`` sees every rank before the first message.

    Raises:
        PsdpError: it cannot start.
    """

    folder: Path
    workers: int = 1
    resume: Path | str | None = None
    settings: dict[str, Any] = field(default_factory=dict)
    prepare: Callable[[Training], None] | None = None
    signalled: Callable[[int], str | None] = lambda _rank: None

    def __post_init__(self) -> None:
        gc.collect()  # the files of earlier jobs, whose ranks refer to one another
        own: dict[str, Any] = {"out": str(self.folder)}
        own["corpus"] = [str(corpus_file(self.folder.parent))]
        if self.resume is not None:
            own["resume"] = str(self.resume)
        given = TINY | own | self.settings
        holding = given.get("servers", 1) * (2 if given.get("standby") else 1)
        self._worlds = InMemoryWorlds(["here"] * (holding + self.workers))
        begun: dict[int, Rank] = {}

        def begin(world: World) -> int:
            ready = prepare(world, given, None)
            asking = Asking(partial(self.signalled, world.rank))
            role, endpoint = take_role(world, ready, asking)
            assert isinstance(endpoint, InMemoryEndpoint)
            begun[world.rank] = Rank(world.rank, ready, role, endpoint)
            return 0

        _raise_first(self._worlds.run(begin, PATIENCE_S))
        self.ranks = [begun[rank] for rank in sorted(begun)]
        if self.prepare is not None:
            self.prepare(self)

    # What a test looks at

    @property
    def job(self) -> Job:
        ready = self.ranks[0].ready
        assert isinstance(ready, Ready)
        return ready.job

    @property
    def network(self) -> InMemoryNetwork:
        return self._worlds.network

    @property
    def servers(self) -> list[Serving]:
        return [self.role(rank).serving for rank in self.last_job.servers]

    def role(self, rank: int) -> Leader | Follower:
        """Return what a rank does that holds a shard, in the last term that it knows of."""
        role = self.ranks[rank].role
        if isinstance(role, Spare):
            role = role.holds
        if isinstance(role, Terms):
            role = role.role
        assert isinstance(role, Leader | Follower)
        return role

    @property
    def last_job(self) -> Job:
        """The job as it is in the last term that any rank knows of."""
        called = [rank.number for rank in self.ranks if getattr(rank.role, "holds", None)]
        jobs = [self.role(rank).job for rank in (*self.job.holding, *called)]
        return max(jobs, key=lambda job: job.term.number)

    @property
    def leader(self) -> Leader:
        leader = self.role(self.last_job.leader)
        assert isinstance(leader, Leader)
        return leader

    @property
    def progress(self) -> Progress:
        """What is in the weights of rank 0's shard."""
        return self.leader.serving.progress

    def worker(self, number: int) -> Worker:
        """Return a rank that works by its number among these, from 0."""
        worker = self.ranks[self.job.worker_ranks[number]].role
        if isinstance(worker, Spare) and worker.worker is not None:
            return worker.worker
        assert isinstance(worker, Worker)
        return worker

    def training(self, number: int) -> Any:
        """Return what a worker does between exchanges, of one that always does the same."""
        (own,) = self.worker(number).hosted.values()
        (training,) = own.trainings.values()
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
            int(path.name[5:11]): path
            for path in sorted((self.folder / "checkpoints").glob("step-*"))
        }

    # Running

    def run(self) -> Training:
        """Run to the end; raise what the first rank to fail raised, rank 0 before the others."""

        def live(world: World) -> int:
            rank = self.ranks[world.rank]
            try:
                return play(world, rank.role, rank.endpoint, Line())
            finally:
                rank.ready.folder.let_go()

        try:
            ends = self._worlds.run(live, PATIENCE_S)
        except TimeoutError as hanging:
            pytest.fail(f"the job hangs: {hanging}")
        for rank, end in zip(self.ranks, ends, strict=True):
            rank.error = _reason_of(end)
        _raise_first(ends)
        return self


def _reason_of(end: int | BaseException) -> BaseException | None:
    """Return what a rank itself failed of, if it did."""
    if isinstance(end, Aborted):
        end = end.__context__ or end  # it ended all others while it had that in hand
    while isinstance(end, StartRefused) and (end.__cause__ or end.__context__):
        end = end.__cause__ or end.__context__ or end
    return None if isinstance(end, int | Aborted | Killed) else end


def _raise_first(ends: list[int | BaseException]) -> None:
    reasons = [_reason_of(end) for end in ends]
    for reason in reasons:
        if reason is not None and not isinstance(reason, StartRefused):
            raise reason
    for reason in reasons:
        if reason is not None:
            raise reason


def train(
    folder: Path,
    *,
    workers: int = 1,
    resume: Path | str | None = None,
    prepare: Callable[[Training], None] | None = None,
    signalled: Callable[[int], str | None] = lambda _rank: None,
    **settings: Any,
) -> Training:
    """Run a whole job to its end and return it."""
    return Training(folder, workers, resume, settings, prepare, signalled).run()


def trainings_of(worker: Worker) -> list[Any]:
    """Return all ways in which a rank trains for its workers."""
    return [training for own in worker.hosted.values() for training in own.trainings.values()]


def before_gradient(worker: Worker, action: Callable[[int], None]) -> None:
    """Call ``action(n)`` before a rank computes its n-th gradient (from 0) of this start."""
    counter = itertools.count()
    for training in trainings_of(worker):
        compute = training.gradient

        def wrapped(clock: int, batch: int, leaves: bool, compute: Any = compute) -> None:
            action(next(counter))
            compute(clock, batch, leaves)

        training.gradient = wrapped


def unhurried(run: Training, seconds: float = 0.03) -> None:
    """Let updates take a while, in which spare ranks make what they need."""
    for rank in run.job.holding:
        shard = run.role(rank).serving.shard

        def slowly(*arguments: Any, update: Any = shard.update) -> Any:
            time.sleep(seconds)
            return update(*arguments)

        shard.update = slowly  # type: ignore[method-assign]


def trace_peak(worker: Worker, first: int, last: int, into: list[int]) -> None:
    """Append the bytes allocated before a worker's gradient number ``first``, and the most there
    were from then until its gradient number ``last``."""

    def measure(count: int) -> None:
        if count == first:
            tracemalloc.start()
            tracemalloc.reset_peak()
            into.append(tracemalloc.get_traced_memory()[0])
        elif count == last:
            into.append(tracemalloc.get_traced_memory()[1])
            tracemalloc.stop()

    before_gradient(worker, measure)


def die(worker: Worker) -> NoReturn:
    """Let a worker die here."""
    assert isinstance(worker.endpoint, InMemoryEndpoint)
    worker.endpoint.die()


def die_at(worker: Worker, gradient: int) -> None:
    """Let a worker die instead of computing its gradient of this number."""

    def action(count: int) -> None:
        if count == gradient:
            die(worker)

    before_gradient(worker, action)
