"""What a spare rank does when it is called: by itself, what others did together at the start."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np

from psdp.backend.gpu.backend import GpuBackend
from psdp.backend.threads import limit_blas
from psdp.cast import Cast
from psdp.job import Job
from psdp.params import Array
from psdp.startup.device import OpenDevice, make_replica
from psdp.startup.facts import read
from psdp.startup.ready import Waiting, sense_of, store_of
from psdp.transport import Endpoint
from psdp.workers.listening import Listening
from psdp.workers.worker import Worker


def take_part(
    waiting: Waiting,
    endpoint: Endpoint,
    signalled: Callable[[], str | None],
    known: Cast,
    listening: Listening,
) -> Worker:
    """Return what this rank does from now on.

    Args:
        known: the job, as this rank knows it by now.
        listening: has heard until now.

    Raises:
        PsdpError: it cannot, or finds another task than the others did.
    """
    limit_blas(waiting.location.threads)
    job = replace(make_job(waiting), term=known.term)
    backend, _ = OpenDevice(job, waiting.rank, waiting.location).act()
    assert backend is not None, "it is no server"
    on_device = waiting.told.on_devices
    if on_device:
        assert isinstance(backend, GpuBackend)
        endpoint.vectors = backend.device

    def zeros(size: int, dtype: Any) -> Array:
        return backend.zeros(size, dtype=dtype) if on_device else np.zeros(size, dtype)

    endpoint.sense = sense_of(job)
    replica = make_replica(job, backend, zeros, hosted=1, on_device=on_device)
    store = store_of(waiting)
    return Worker(job, endpoint, replica, store=store, listening=listening, signalled=signalled)


def make_job(waiting: Waiting) -> Job:
    """Make the task, and compare it with what the others have made.

    Raises:
        PsdpError: it cannot be made, or is another one.
    """
    cast, told = waiting.cast, waiting.told
    step = waiting.program.begin(cast.config, waiting.rank, cast.world_size)
    job, own = step.act()
    server, worker = (read(step.facts, task) for task in (told.server_task, told.worker_task))
    step.agree({cast.leader: server, cast.computing[0]: worker, waiting.rank: own})
    return job
