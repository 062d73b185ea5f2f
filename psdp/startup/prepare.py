"""Everything a rank needs before its loop starts: the steps, in order."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from psdp.backend.threads import limit_blas
from psdp.checkpoint import Manifest, Snapshot
from psdp.data.corpus import Corpus
from psdp.errors import ConfigError
from psdp.job import Job
from psdp.records.folder import RunFolder
from psdp.servers.shard import Shard
from psdp.startup.corpus import ReadCorpus
from psdp.startup.device import OpenDevice
from psdp.startup.folder import OpenFolder
from psdp.startup.on_devices import meet_on_devices
from psdp.startup.parts import MakePart, Part
from psdp.startup.resume import GoOn
from psdp.startup.settings import AgreeOnSettings
from psdp.startup.share import Links, Meeting, meet
from psdp.startup.step import take
from psdp.task import Task
from psdp.transport.devices import Device
from psdp.transport.shared import Neighbours
from psdp.transport.world import World
from psdp.workers.replica import Replica


@dataclass(frozen=True)
class Ready:
    """What all ranks agreed on, and this rank's own part.

    Attributes:
        task: what the workers' models are to learn.
        replica: of a worker.
        shard: of a server, fresh.
        folder: the run folder; rank 0 writes it, servers write their shards below it.
        manifest: of the checkpoint that this run resumes.
        snapshot: of a server of a resumed run, and of its workers where each has the optimizer.
        links: how vectors go between servers and workers.
        neighbours: what this rank shares with others on its host.
        vectors_on: the GPU that holds this rank's vectors, if one does.
        kernels: that each rank computes with.
    """

    job: Job
    corpus: Corpus
    folder: RunFolder
    task: Task
    replica: Replica | None
    shard: Shard | None
    manifest: Manifest | None
    snapshot: Snapshot | None
    links: Links
    neighbours: Neighbours
    vectors_on: Device | None
    kernels: list[str]


def prepare(world: World, given: Mapping[str, Any], refused: ConfigError | None) -> Ready:
    """Agree with all other ranks on the job; return what this rank needs for its loop.

    Args:
        given: settings of this rank's command line.
        refused: why the command line could not be read, to be told once.

    Raises:
        StartRefused: something is wrong on some rank; rank 0 has said what.
    """
    rank, size = world.rank, world.size
    settled, locations = take(world, AgreeOnSettings(world, given, refused))
    config, manifest = settled
    limit_blas(locations[rank].threads)
    reading, _ = take(world, ReadCorpus(config, rank, size))
    corpus, task, job = reading.corpus, reading.task, reading.job
    snapshot, _ = take(world, GoOn(job, corpus, manifest, rank))
    backend, needs = take(world, OpenDevice(job, rank, task, locations[rank]))
    on_devices, why_not = meet_on_devices(world, job, backend, needs, locations)
    making = MakePart(job, rank, task, backend, needs, locations, on_devices)
    (part, memory), made = take(world, making)
    meeting: Meeting | None = on_devices
    if meeting is None:
        cards = [fact.card for fact in made]
        meeting = meet(world, job, locations, memory, cards, why_not)
    _adopt(job, rank, part, meeting)
    kernels = [fact.kernels for fact in made]
    how = meeting.links.name, world.library
    opening = OpenFolder(job, rank, corpus, manifest, locations, kernels, *how)
    folder, path = take(world, opening)
    return Ready(
        job=job,
        corpus=corpus,
        folder=folder or RunFolder(path),
        task=task,
        replica=part if isinstance(part, Replica) else None,
        shard=part if isinstance(part, Shard) else None,
        manifest=manifest,
        snapshot=snapshot,
        links=meeting.links,
        neighbours=Neighbours(meeting.memory, meeting.windows),
        vectors_on=None if on_devices is None else on_devices.device,
        kernels=kernels,
    )


def _adopt(job: Job, rank: int, part: Part, meeting: Meeting) -> None:
    """Let a server's slots be the gradients of the workers whose memory it sees."""
    if isinstance(part, Shard) and not job.reduces:
        for slot, worker in enumerate(job.workers):
            if worker in meeting.windows:
                gradient = meeting.windows[worker].vector(job.payloads[rank], job.codec.item)
                part.adopt(slot, gradient)
