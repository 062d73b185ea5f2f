"""Whether vectors stay in the memory of GPUs, from a worker's to a server's and back.

It is one decision for the whole job. Every server and every worker must be on a GPU; each pair of
them must open one another's memory (CUDA IPC), or both must have an MPI that takes GPU memory; and
there must be room. Otherwise vectors go by way of the hosts.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from psdp.backend import Backend
from psdp.backend.gpu.backend import GpuBackend
from psdp.job import Job
from psdp.params import Array, Zeros
from psdp.startup.agree import together
from psdp.startup.device import copies_of_weights, needs_by_gpu
from psdp.startup.probe import why_not_aware
from psdp.startup.share import Links, Meeting, mutual, open_one_another, sharing
from psdp.transport.devices import Device, DeviceMemory, DeviceWindow
from psdp.transport.mpi import World
from psdp.transport.shared import Window


@dataclass(frozen=True)
class OnDevices(Meeting):
    """The same of GPU memory.

    Attributes:
        device: this rank's GPU.
        zeros: makes vectors on it, in what is shared if anything is.
    """

    device: Device
    zeros: Zeros


@dataclass
class _Attempt:
    """What this rank has tried so far, and what all ranks know of it."""

    memory: DeviceMemory | None
    windows: dict[int, Window]
    met: list[list[int]]
    refused: list[str]


def meet_on_devices(
    world: World,
    job: Job,
    backend: Backend | None,
    needs: Sequence[Mapping[str, Any] | None],
    hosts: Sequence[str],
    local_ranks: Sequence[int],
) -> tuple[OnDevices | None, str | None]:
    """Return this rank's part of vectors in GPU memory; or None, and why not if the settings would
    have it. All ranks must call this together.

    Args:
        needs: of every rank, see :func:`psdp.startup.device.needs_of`.
    """
    if job.config.run.server_device != "gpu":
        return None, None
    for worker in job.workers:
        if needs[worker] is None:
            return None, f"worker {worker} computes on a CPU"
    assert isinstance(backend, GpuBackend)
    tried = _attempt(world, job, backend.device, hosts)
    shared, pairs = sharing(job, tried.met), len(job.servers) * len(job.workers)
    why_not = None
    if len(shared) < pairs:
        why_not = _why_no_messages(world, job, hosts, local_ranks)
        if why_not is not None and tried.refused:
            why_not = f"{tried.refused[0]}; {why_not}"
    why_not = why_not or lack_of_room(job, needs, hosts, shared)
    if why_not is not None:
        # All must have closed what is another's before it goes.
        tried.windows.clear()
        together(world, lambda: (None, {}))
        return None, why_not
    windows = mutual(tried.windows, world.rank, tried.met)
    links = Links(shared, pairs, next(iter(tried.refused), None), on_devices=True)

    def zeros(size: int, dtype: Any) -> Array:
        return backend.zeros(size, dtype=dtype)

    memory = tried.memory
    make = zeros if memory is None else memory.zeros
    return OnDevices(memory, windows, links, backend.device, make), None


def _attempt(world: World, job: Job, device: Device, hosts: Sequence[str]) -> _Attempt:
    rank = world.rank

    def sharing_own() -> tuple[DeviceMemory | None, dict[str, Any]]:
        if job.config.run.transport == "messages":
            return None, {"card": None, "refused": []}
        if rank in job.servers:
            count, size, dtype = copies_of_weights(job), len(job.shards[rank]), job.config.run.dtype
        else:
            count, size, dtype = 1, job.table.size, job.wire_dtype.name
        try:
            memory = DeviceMemory(count, size, dtype, device)
        except OSError as error:
            return None, {"card": None, "refused": [f"rank {rank}: {error.strerror}"]}
        return memory, {"card": memory.card(), "refused": []}

    memory, offers = together(world, sharing_own)

    def window(card: Mapping[str, Any]) -> Window:
        return DeviceWindow(card, device)

    cards = [offer["card"] for offer in offers]
    windows, met, refused = open_one_another(world, job, hosts, cards, window)
    lacking = [reason for offer in offers for reason in offer["refused"]]
    return _Attempt(memory, windows, met, lacking + refused)


def _why_no_messages(
    world: World, job: Job, hosts: Sequence[str], local_ranks: Sequence[int]
) -> str | None:
    """Return why vectors cannot go from GPU to GPU as messages; one rank of each host tries."""
    if job.config.run.transport == "shared":
        return "not all pairs share memory, which --transport shared insists on"
    local_rank = local_ranks[world.rank]

    def probing() -> tuple[None, dict[str, Any]]:
        return None, {"why_not": why_not_aware(local_rank) if local_rank == 0 else None}

    _, facts = together(world, probing)
    reasons = ((host, fact["why_not"]) for host, fact in zip(hosts, facts, strict=True))
    return next((f"{host}: {reason}" for host, reason in reasons if reason is not None), None)


def lack_of_room(
    job: Job,
    needs: Sequence[Mapping[str, Any] | None],
    hosts: Sequence[str],
    shared: frozenset[tuple[int, int]],
) -> str | None:
    """Return which GPU has no room for vectors beside all else that is to be there."""
    for (host, name), sharing_it in needs_by_gpu(needs, hosts).items():
        needed, free = 0, min(need["free"] for _, need in sharing_it)
        for rank, need in sharing_it:
            received = 0
            if rank in job.servers:
                received = sum((rank, worker) not in shared for worker in job.workers)
            needed += need["needed"] + need["vectors"] + received * need["slot"]
        if needed > free:
            return (
                f"{name} on {host} would have to hold {needed / 2**30:.2f} GiB, and has "
                f"{free / 2**30:.2f} GiB free"
            )
    return None
