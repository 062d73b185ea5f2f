"""What a rank that serves or computes needs before its loop starts: the steps, in order."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from psdp.backend.threads import limit_blas
from psdp.checkpoint import Manifest
from psdp.config import Config
from psdp.job import Job
from psdp.records.lock import RunLock
from psdp.servers.shard import Shard
from psdp.startup.device import OpenDevice
from psdp.startup.elsewhere import ReachElsewhere
from psdp.startup.folder import OpenFolder
from psdp.startup.on_devices import meet_on_devices
from psdp.startup.parts import MakePart, Part
from psdp.startup.program import Program
from psdp.startup.ready import Ready, Told
from psdp.startup.resume import GoOn, identity_of
from psdp.startup.settings import Location
from psdp.startup.share import Meeting, meet
from psdp.startup.sources import ReadWeights
from psdp.startup.step import take
from psdp.transport.shared import Neighbours
from psdp.transport.world import World
from psdp.workers.replica import Replica


def build(
    world: World,
    config: Config,
    manifest: Manifest | None,
    locations: Sequence[Location],
    program: Program,
    lock: RunLock | None,
) -> tuple[Ready, Told]:
    """Make this rank's part together with all others that have one; return it, and what spare ranks
    are to know.

    Args:
        world: in which the ranks that have a part exchange.
        locations: of all ranks.

    Raises:
        StartRefused: something is wrong on some rank; rank 0 has said what.
    """
    rank = world.rank
    limit_blas(locations[rank].threads)
    reaching = ReachElsewhere(rank, config.run.checkpoint_to, manifest, lock is not None)
    elsewhere, run = take(world, reaching)
    beginning = program.begin(config, rank, world.size)
    made_here, tasks = take(world, beginning)
    job = made_here or beginning.told_of(tasks)
    gone_on_from, _ = take(world, GoOn(job, manifest, rank))
    weights, _ = take(world, ReadWeights(job, rank, manifest))
    backend, needs = take(world, OpenDevice(job, rank, locations[rank]))
    on_devices, why_not = meet_on_devices(world, job, backend, needs, locations)
    making = MakePart(job, rank, backend, needs, locations, on_devices, weights)
    (part, memory), made = take(world, making)
    meeting: Meeting | None = on_devices
    if meeting is None:
        cards = [made[at].card if at in made else None for at in range(world.size)]
        meeting = meet(world, job, locations, memory, cards, why_not)
    _adopt(job, rank, part, meeting)
    kernels = [made[at].kernels if at in made else None for at in range(world.size)]
    how = meeting.links.name, world.library, program.more(job)
    kept = program.kept(config.flat())
    opening = OpenFolder(job, rank, kept, manifest, lock, locations, kernels, *how)
    own, others = take(world, opening)
    folder = own or others
    ready = Ready(
        job=job,
        folder=folder,
        identity=identity_of(job, kept, run),
        elsewhere=elsewhere,
        replica=part if isinstance(part, Replica) else None,
        shard=part if isinstance(part, Shard) else None,
        manifest=manifest,
        snapshot=gone_on_from.snapshot,
        inner=gone_on_from.inner,
        links=meeting.links,
        transport=meeting.links.name,
        neighbours=Neighbours(meeting.memory, meeting.windows),
        vectors_on=None if on_devices is None else on_devices.device,
        kernels=kernels,
        hosts=[at.host for at in locations],
    )
    return ready, _told(ready, tasks, run)


def _told(ready: Ready, tasks: Mapping[int, Any], run: str) -> Told:
    """Return what spare ranks are to know.

    Args:
        tasks: the facts of each rank's.
        run: its name.
    """
    job = ready.job
    server, worker = (asdict(tasks[who]) for who in (job.leader, job.computing[0]))
    return Told(
        server_task=server,
        worker_task=worker,
        on_devices=ready.vectors_on is not None,
        weights_bytes=job.table.size * np.dtype(job.config.run.dtype).itemsize,
        run=run,
        transport=ready.transport,
        kernels=tuple(ready.kernels),
        folder=str(ready.folder.path),
        token=ready.folder.token,
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
