"""What a spare rank does when it is called: by itself, what others did together at the start."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import numpy as np

from psdp.backend.gpu.backend import GpuBackend
from psdp.backend.threads import limit_blas
from psdp.cast import Cast
from psdp.job import Job
from psdp.params import Array
from psdp.servers.joining import Joining
from psdp.servers.shard import Shard
from psdp.servers.terms import Terms
from psdp.startup.asking import Asking
from psdp.startup.device import OpenDevice, make_replica
from psdp.startup.facts import read
from psdp.startup.ready import Ready, Waiting, sense_of, store_of
from psdp.startup.recording import timeline_of
from psdp.startup.resume import identity_of
from psdp.startup.roles import Holding
from psdp.startup.share import make_memory
from psdp.transport import Endpoint
from psdp.transport.shared import Neighbours, SharedMemory
from psdp.workers.listening import Listening
from psdp.workers.worker import Worker


def take_part(
    waiting: Waiting, endpoint: Endpoint, asking: Asking, known: Cast, listening: Listening
) -> Worker:
    """Return what this rank does that computes from now on.

    Args:
        known: the job, as this rank knows it by now.
        listening: has heard until now.

    Raises:
        PsdpError: it cannot, or finds another task than the others did.
    """
    location = waiting.locations[waiting.rank]
    limit_blas(location.threads)
    job = replace(make_job(waiting, endpoint), term=known.term)
    backend, _ = OpenDevice(job, waiting.rank, location).act()
    assert backend is not None, "it is no server"
    on_device = waiting.told.on_devices
    if on_device:
        assert isinstance(backend, GpuBackend)
        endpoint.vectors = backend.device

    memory = _memory(waiting, endpoint, job)

    def zeros(size: int, dtype: Any) -> Array:
        if memory is not None:
            return memory.zeros(size, dtype)
        return backend.zeros(size, dtype=dtype) if on_device else np.zeros(size, dtype)

    replica = make_replica(job, backend, zeros, hosted=1, on_device=on_device)
    _share(waiting, endpoint, memory, job.holding)
    return Worker(
        job,
        endpoint,
        replica,
        store=store_of(waiting),
        listening=listening,
        signalled=asking.asked,
        timeline=timeline_of(waiting, waiting.rank),
    )


def join(
    waiting: Waiting, endpoint: Endpoint, asking: Asking, listening: Listening, number: int
) -> Joining[Terms]:
    """Make the shard of this number; return what comes to hold it with the next term.

    Raises:
        PsdpError: it cannot, or finds another task than the others did.
    """
    threads = waiting.locations[waiting.rank].threads
    limit_blas(threads)
    job, told = make_job(waiting, endpoint), waiting.told
    memory = _memory(waiting, endpoint, job, number)
    zeros = np.zeros if memory is None else memory.zeros
    shard = Shard.initial(job, number, zeros, threads=threads)
    kept = waiting.program.kept(job.config.flat())
    ready = Ready(
        job=job,
        folder=waiting.folder,
        replica=None,
        shard=shard,
        identity=identity_of(job, kept, told.run),
        elsewhere=None,
        manifest=waiting.manifest,
        snapshot=None,
        inner={},
        links=None,
        transport=told.transport,
        neighbours=Neighbours(),
        vectors_on=None,
        kernels=list(told.kernels),
        hosts=[at.host for at in waiting.locations],
    )
    endpoint.meet(range(job.world_size))
    _share(waiting, endpoint, memory, range(job.world_size))
    making = Holding(ready, endpoint, asking)
    return Joining(job, number, shard, endpoint, listening.take_moved, making.join)


def _memory(
    waiting: Waiting, endpoint: Endpoint, job: Job, shard: int | None = None
) -> SharedMemory | None:
    """Return the memory of what is made for a shard, or for a worker, for others to see; None where
    it is seen by nobody: a rank shares once."""
    if waiting.told.on_devices or endpoint.sharing.begun:
        return None
    return make_memory(job, waiting.rank, shard=shard)


def _share(
    waiting: Waiting, endpoint: Endpoint, memory: SharedMemory | None, ranks: Iterable[int]
) -> None:
    """Share it with those of these ranks that are on this rank's host."""
    here = waiting.locations[waiting.rank].host
    near = [at for at in ranks if waiting.locations[at].host == here and at != waiting.rank]
    if memory is not None:
        endpoint.sharing.begin(memory, near)


def make_job(waiting: Waiting, endpoint: Endpoint) -> Job:
    """Make the task, and compare it with what the others have made; what is heard is to make sense
    in it.

    Raises:
        PsdpError: it cannot be made, or is another one.
    """
    cast, told = waiting.cast, waiting.told
    step = waiting.program.begin(cast.config, waiting.rank, cast.world_size)
    made_here, own = step.act()
    server, worker = (read(step.facts, task) for task in (told.server_task, told.worker_task))
    tasks = step.agree({cast.leader: server, cast.computing[0]: worker, waiting.rank: own})
    job = made_here or step.told_of(tasks)
    endpoint.sense = sense_of(job)
    return job
