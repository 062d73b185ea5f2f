"""Whether vectors stay in the memory of GPUs, from a worker's to a server's and back: three steps.

It is one decision for the whole job. Every server and every worker must be on a GPU; each pair of
them must open one another's memory (CUDA IPC), or both must have an MPI that takes GPU memory; and
there must be room. Otherwise vectors go by way of the hosts.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from psdp.backend import Backend
from psdp.backend.gpu.backend import GpuBackend
from psdp.job import Job
from psdp.params import Array, Zeros
from psdp.startup.device import Needs, copies_of_weights, needs_by_gpu
from psdp.startup.probe import why_not_aware
from psdp.startup.settings import Location
from psdp.startup.share import Links, Meeting, OpenMemory, pairs_of
from psdp.startup.step import Nothing, Step, take
from psdp.transport.devices import Device, DeviceCard, SharedDeviceMemory, open_device_memory
from psdp.transport.shared import Window
from psdp.transport.world import World


@dataclass(frozen=True)
class OnDevices(Meeting):
    """The same of GPU memory.

    Attributes:
        device: this rank's GPU.
        zeros: makes vectors on it, in what is shared if anything is.
    """

    device: Device
    zeros: Zeros


@dataclass(frozen=True)
class Offer:
    """What one rank tells of its GPU's memory: how to open it, or why it shares none."""

    card: DeviceCard | None
    refused: str | None


@dataclass(frozen=True)
class OfferDeviceMemory(Step[SharedDeviceMemory | None, Offer, Mapping[int, Offer]]):
    """Set aside the memory of this rank's GPU that others may open."""

    job: Job
    rank: int
    device: Device

    facts = Offer

    def act(self) -> tuple[SharedDeviceMemory | None, Offer]:
        job, run = self.job, self.job.config.run
        if run.transport == "messages":
            return None, Offer(None, None)
        if self.rank in job.holding:
            size = len(job.shards[job.shard_of(self.rank)])
            count, dtype = copies_of_weights(job), run.dtype
        else:
            count, size, dtype = 1, job.boxes_of(self.rank)[-1].stop, job.codec.item.name
        try:
            memory = SharedDeviceMemory(count, size, dtype, self.device)
        except OSError as error:
            return None, Offer(None, f"rank {self.rank}: {error.strerror}")
        return memory, Offer(memory.card(), None)

    def agree(self, facts: Mapping[int, Offer]) -> Mapping[int, Offer]:
        return facts


@dataclass(frozen=True)
class Tried:
    """Why the MPI of one host takes no GPU memory, if it was tried and does not."""

    why_not: str | None


@dataclass(frozen=True)
class TryMessages(Step[None, Tried, str | None]):
    """Find why vectors cannot go from GPU to GPU as messages; one rank of each host tries."""

    rank: int
    locations: Sequence[Location]

    facts = Tried

    def act(self) -> tuple[None, Tried]:
        local_rank = self.locations[self.rank].local_rank
        return None, Tried(why_not_aware(local_rank) if local_rank == 0 else None)

    def agree(self, facts: Mapping[int, Tried]) -> str | None:
        found = ((self.locations[rank].host, fact.why_not) for rank, fact in facts.items())
        return next((f"{host}: {why}" for host, why in found if why is not None), None)


@dataclass(frozen=True)
class CloseMemory(Step[None, Nothing, None]):
    """Close what is another's, which all must have done before it goes."""

    windows: dict[int, Window]

    facts = Nothing

    def act(self) -> tuple[None, Nothing]:
        self.windows.clear()
        return None, Nothing()

    def agree(self, facts: Mapping[int, Nothing]) -> None:
        pass


def meet_on_devices(
    world: World,
    job: Job,
    backend: Backend | None,
    needs: Sequence[Needs | None],
    locations: Sequence[Location],
) -> tuple[OnDevices | None, str | None]:
    """Return this rank's part of vectors in GPU memory; or None, and why not if the settings would
    have it. All ranks must call this together.

    Args:
        needs, locations: of every rank.
    """
    if job.config.run.server_device != "gpu":
        return None, None
    for worker in job.computing:
        if needs[worker] is None:
            return None, f"worker {worker} computes on a CPU"
    assert isinstance(backend, GpuBackend)
    rank, device = world.rank, backend.device
    memory, offers = take(world, OfferDeviceMemory(job, rank, device))
    hosts = [at.host for at in locations]
    cards = [offers[rank].card if rank in offers else None for rank in range(job.world_size)]

    opening = OpenMemory(job, rank, hosts, cards, partial(open_device_memory, device=device), False)
    windows, openings = take(world, opening)
    refused = [offer.refused for offer in offers.values() if offer.refused is not None]
    why_not_shared = next(iter([*refused, *openings.refused]), None)
    why_not = None
    shared = openings.pairs(job)
    if len(shared) < len(pairs_of(job)) or job.spares:  # these share no memory
        why_not = _why_no_messages(world, job, locations)
        if why_not is not None and why_not_shared is not None:
            why_not = f"{why_not_shared}; {why_not}"
    why_not = why_not or lack_of_room(job, needs, hosts, shared)
    if why_not is not None:
        take(world, CloseMemory(windows))
        return None, why_not

    def zeros(size: int, dtype: Any) -> Array:
        return backend.zeros(size, dtype=dtype)

    links = Links(shared, len(pairs_of(job)), why_not_shared, on_devices=True)
    make = zeros if memory is None else memory.zeros
    return OnDevices(memory, openings.mutual(windows, rank), links, device, make), None


def _why_no_messages(world: World, job: Job, locations: Sequence[Location]) -> str | None:
    if job.config.run.transport == "shared":
        return "not all pairs share memory, which --transport shared insists on"
    _, why_not = take(world, TryMessages(world.rank, locations))
    return why_not


def lack_of_room(
    job: Job,
    needs: Sequence[Needs | None],
    hosts: Sequence[str],
    shared: frozenset[tuple[int, int]],
) -> str | None:
    """Return which GPU has no room for vectors beside all else that is to be there."""
    for (host, name), sharing_it in needs_by_gpu(needs, hosts).items():
        needed, free = 0, min(need.free for _, need in sharing_it)
        for rank, need in sharing_it:
            received = 0
            if rank in job.holding:
                received = sum((rank, worker) not in shared for worker in job.computing)
            needed += need.needed + need.vectors + received * need.slot
        if needed > free:
            return (
                f"{name} on {host} would have to hold {needed / 2**30:.2f} GiB, and has "
                f"{free / 2**30:.2f} GiB free"
            )
    return None
