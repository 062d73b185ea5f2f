"""Everything a rank needs before its loop starts: the steps, in order."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from psdp.backend.threads import limit_blas
from psdp.checkpoint import Inner, Manifest, Objects, Snapshot
from psdp.errors import ConfigError
from psdp.job import Job
from psdp.records.folder import RunFolder
from psdp.records.lock import RunLock
from psdp.servers.shard import Shard
from psdp.startup.choosing import ChooseCheckpoint
from psdp.startup.device import OpenDevice
from psdp.startup.elsewhere import ReachElsewhere
from psdp.startup.folder import OpenFolder
from psdp.startup.on_devices import meet_on_devices
from psdp.startup.parts import MakePart, Part
from psdp.startup.program import LANGUAGE, Program
from psdp.startup.resume import GoOn, identity_of
from psdp.startup.settings import AgreeOnSettings
from psdp.startup.share import Links, Meeting, meet
from psdp.startup.step import take
from psdp.transport.devices import Device
from psdp.transport.shared import Neighbours
from psdp.transport.world import World
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
        links: how vectors go between servers and workers.
        neighbours: what this rank shares with others on its host.
        vectors_on: the GPU that holds this rank's vectors, if one does.
        kernels: that each rank computes with.
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
    links: Links
    neighbours: Neighbours
    vectors_on: Device | None
    kernels: list[str]
    hosts: list[str]


def prepare(
    world: World,
    given: Mapping[str, Any],
    refused: ConfigError | None,
    program: Program = LANGUAGE,
) -> Ready:
    """Agree with all other ranks on the job; return what this rank needs for its loop.

    Args:
        given: settings of this rank's command line.
        refused: why the command line could not be read, to be told once.
        program: what is trained.

    Raises:
        StartRefused: something is wrong on some rank; rank 0 has said what.
    """
    lock, checkpoint = take(world, ChooseCheckpoint(world.rank, {} if refused else given))
    try:
        return _prepare(world, given, refused, program, checkpoint, lock)
    except BaseException:
        if lock is not None:
            lock.release()
        raise


def _prepare(
    world: World,
    given: Mapping[str, Any],
    refused: ConfigError | None,
    program: Program,
    checkpoint: Path | None,
    lock: RunLock | None,
) -> Ready:
    rank, size = world.rank, world.size
    agreeing = AgreeOnSettings(world, given, checkpoint, refused, program.command)
    settled, locations = take(world, agreeing)
    config, manifest = settled
    limit_blas(locations[rank].threads)
    reaching = ReachElsewhere(rank, config.run.checkpoint_to, manifest, lock is not None)
    elsewhere, run = take(world, reaching)
    job, _ = take(world, program.begin(config, rank, size))
    gone_on_from, _ = take(world, GoOn(job, manifest, rank))
    backend, needs = take(world, OpenDevice(job, rank, locations[rank]))
    on_devices, why_not = meet_on_devices(world, job, backend, needs, locations)
    making = MakePart(job, rank, backend, needs, locations, on_devices)
    (part, memory), made = take(world, making)
    meeting: Meeting | None = on_devices
    if meeting is None:
        cards = [fact.card for fact in made]
        meeting = meet(world, job, locations, memory, cards, why_not)
    _adopt(job, rank, part, meeting)
    kernels = [fact.kernels for fact in made]
    how = meeting.links.name, world.library
    kept = program.kept(config.flat())
    opening = OpenFolder(job, rank, kept, manifest, lock, locations, kernels, *how)
    own, told = take(world, opening)
    return Ready(
        job=job,
        folder=own or told,
        identity=identity_of(job, kept, run),
        elsewhere=elsewhere,
        replica=part if isinstance(part, Replica) else None,
        shard=part if isinstance(part, Shard) else None,
        manifest=manifest,
        snapshot=gone_on_from.snapshot,
        inner=gone_on_from.inner,
        links=meeting.links,
        neighbours=Neighbours(meeting.memory, meeting.windows),
        vectors_on=None if on_devices is None else on_devices.device,
        kernels=kernels,
        hosts=[location.host for location in locations],
    )


def _adopt(job: Job, rank: int, part: Part, meeting: Meeting) -> None:
    """Let a server's slots be the gradients of the workers whose memory it sees. It writes there:
    who stands by for it has slots of its own."""
    if isinstance(part, Shard) and rank in job.servers and not job.reduces:
        payload = job.payloads[job.shard_of(rank)]
        for peer, window in meeting.windows.items():
            hosted = job.hosted(peer)
            for worker, box in zip(hosted, job.boxes(len(hosted)), strict=True):
                own = range(box.start + payload.start, box.start + payload.stop)
                part.adopt(job.slot_of(worker), window.vector(own, job.codec.item))
