"""What a rank has when the start is over."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from psdp.cast import Cast
from psdp.checkpoint import CheckpointStore
from psdp.records.folder import RunFolder
from psdp.records.shadow import Shadow
from psdp.startup.program import Program
from psdp.startup.settings import Location
from psdp.transport.sense import Sense

if TYPE_CHECKING:  # a spare rank has none of this
    from psdp.checkpoint import Inner, Manifest, Objects, Snapshot
    from psdp.job import Job
    from psdp.servers.shard import Shard
    from psdp.startup.share import Links
    from psdp.transport.devices import Device
    from psdp.transport.shared import Neighbours
    from psdp.workers.replica import Replica


@dataclass(frozen=True)
class Ready:
    """What all ranks agreed on, and this rank's own part.

    Attributes:
        replica: of a worker.
        shard: of a server, fresh.
        folder: the run folder; rank 0 writes it, servers write their shards below it.
        identity: what a checkpoint says of the job beside its progress.
        elsewhere: where checkpoints are to be copied, of rank 0.
        manifest: of the checkpoint that this run resumes.
        snapshot: of a server of a resumed run, and of its workers where each has the optimizer.
        inner: what this rank's workers had for themselves, by their numbers.
        links: how vectors go between servers and workers, of who tells it.
        transport: the same in a word.
        neighbours: what this rank shares with others on its host.
        vectors_on: the GPU that holds this rank's vectors, if one does.
        kernels: that each rank computes with; None of a spare one.
        hosts: of each rank.
    """

    job: Job
    folder: RunFolder
    replica: Replica | None
    shard: Shard | None
    identity: Mapping[str, Any]
    elsewhere: Objects | None
    manifest: Manifest | None
    snapshot: Snapshot | None
    inner: Mapping[int, Inner]
    links: Links | None
    transport: str
    neighbours: Neighbours
    vectors_on: Device | None
    kernels: list[str | None]
    hosts: list[str]

    @property
    def cast(self) -> Cast:
        """Who does what in the job."""
        return self.job


@dataclass(frozen=True)
class Told:
    """What spare ranks are told of the job.

    Attributes:
        server_task, worker_task: the facts of the task that the first server, and the first rank
            that computes, have told the others.
        on_devices: whether vectors are in the memory of GPUs.
        weights_bytes: of all parameters together.
        run: its name.
        transport: how vectors go between servers and workers.
        kernels: that each rank computes with; None of a spare one.
        folder, token: of the run, and of the job that holds it.
    """

    server_task: dict[str, Any]
    worker_task: dict[str, Any]
    on_devices: bool
    weights_bytes: int
    run: str
    transport: str
    kernels: tuple[str | None, ...]
    folder: str
    token: str


@dataclass(frozen=True)
class Waiting:
    """What a spare rank knows of the job that it may be called to take part in.

    Attributes:
        manifest: of the checkpoint that this run resumes.
        locations: of each rank.
        folder: the run folder, which others write.
    """

    cast: Cast
    rank: int
    manifest: Manifest | None
    locations: Sequence[Location]
    program: Program
    told: Told
    folder: RunFolder


def folder_of(job: Cast, rank: int, path: Path, token: str) -> RunFolder:
    """Return the run folder at a rank that does not write it, or not before who does is lost."""
    if job.stands_by and rank in (*job.holders[0], *job.spares):
        return Shadow(path, token, latest=2 * len(job.workers) + 2)
    return RunFolder(path, token=token)


def store_of(ready: Ready | Waiting) -> CheckpointStore:
    """Return where a rank writes its part of checkpoints, in the first term."""
    folder, keep = ready.folder, ready.cast.config.run.keep_checkpoints
    return CheckpointStore(folder.path, keep, folder.token, folder.check)


def sense_of(job: Job) -> Sense:
    """Return what finds what makes no sense in a job."""
    ranks, shards = job.world_size, len(job.servers)
    return Sense(ranks, shards, job.worker_ranks, job.workers, job.gradients, job.pushes)
