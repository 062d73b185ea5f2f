"""Whether the workers that share a GPU fit into it, before any of them fills it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from psdp.backend import Backend
from psdp.backend.gpu_backend import GpuBackend
from psdp.errors import DeviceMemoryError
from psdp.job import Job
from psdp.nn.memory import describe, training_memory


def needs_of(backend: Backend, job: Job, vocab_size: int) -> dict[str, Any] | None:
    """Return what a worker's GPU is, has and must hold, for :func:`check_room`; None on a CPU."""
    if not isinstance(backend, GpuBackend):
        return None
    run = job.config.run
    parts = training_memory(
        job.config.model, vocab_size, run.batch_size, run.dtype, backend.precision
    )
    free, total = backend.device.memory()
    return {
        "name": backend.device.name,
        "free": free,
        "total": total,
        "needed": parts.total(),
        "largest": describe(parts),
    }


def check_room(needs: Sequence[Mapping[str, Any] | None], hosts: Sequence[str], rank: int) -> None:
    """
    Args:
        needs: of every rank, see :func:`needs_of`.
        hosts: of every rank.

    Raises:
        DeviceMemoryError: the workers on this rank's GPU need more memory than it has free.
    """
    own = needs[rank]
    if own is None:
        return
    sharing = [
        other
        for other, host in zip(needs, hosts, strict=True)
        if other is not None and (host, other["name"]) == (hosts[rank], own["name"])
    ]
    needed, free = sum(other["needed"] for other in sharing), min(o["free"] for o in sharing)
    if needed <= free:
        return
    workers = "1 worker needs" if len(sharing) == 1 else f"{len(sharing)} workers need"
    raise DeviceMemoryError(
        f"{own['name']} on {hosts[rank]} has {free / 2**30:.2f} of {own['total'] / 2**30:.2f} GiB "
        f"free, and its {workers} {needed / 2**30:.2f} GiB (of each: {own['largest']}); lower "
        f"--batch-size or --block-size, or start fewer ranks on a GPU"
    )
