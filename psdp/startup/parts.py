"""The step that makes a rank's part: a shard or a replica, with vectors that others may see."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from psdp.backend import Backend
from psdp.job import Job
from psdp.params import Array, Zeros
from psdp.servers.shard import Shard
from psdp.startup.device import Needs, check_room, make_replica
from psdp.startup.on_devices import OnDevices
from psdp.startup.settings import Location
from psdp.startup.share import make_memory
from psdp.startup.step import Step
from psdp.transport.shared import MemoryCard, SharedMemory
from psdp.workers.replica import Replica

Part = Shard | Replica


@dataclass(frozen=True)
class PartMade:
    """What one rank tells: the kernels that it computes with, and how to open its memory on the
    host, if it has any."""

    kernels: str
    card: MemoryCard | None


@dataclass(frozen=True)
class MakePart(Step[tuple[Part, SharedMemory | None], PartMade, Mapping[int, PartMade]]):
    """Make this rank's shard or replica, and what it shares of it.

    Args:
        needs, locations: of every rank.
        backend: None of a server on a CPU.
        on_devices: where vectors are in the memory of GPUs.
        weights: (S,) that a shard begins with, where they are not random.
    """

    job: Job
    rank: int
    backend: Backend | None
    needs: Sequence[Needs | None]
    locations: Sequence[Location]
    on_devices: OnDevices | None
    weights: Array | None = None

    facts = PartMade

    def act(self) -> tuple[tuple[Part, SharedMemory | None], PartMade]:
        if self.on_devices is not None:
            part = self._make(self.on_devices.zeros)
            return (part, None), PartMade(part.backend.kernels, None)
        check_room(self.needs, [at.host for at in self.locations], self.rank)
        job, rank = self.job, self.rank
        shard = job.shard_of(rank) if rank in job.holding else None
        memory = make_memory(job, rank, shard=shard, hosted=len(job.hosted(rank)))
        if memory is None:
            part = self._make(np.zeros)
            return (part, None), PartMade(part.backend.kernels, None)
        part = self._make(memory.zeros)
        offered = part.weights.values if isinstance(part, Shard) else part.outbox
        return (part, memory), PartMade(part.backend.kernels, memory.card(offered))

    def agree(self, facts: Mapping[int, PartMade]) -> Mapping[int, PartMade]:
        return facts

    def _make(self, zeros: Zeros) -> Part:
        on_device = self.on_devices is not None
        if self.rank in self.job.holding:
            threads = self.locations[self.rank].threads
            return Shard.initial(
                self.job,
                self.job.shard_of(self.rank),
                zeros,
                weights=self.weights,
                threads=threads,
                device=self.backend,
                on_device=on_device,
            )
        assert self.backend is not None
        hosted = len(self.job.hosted(self.rank))
        return make_replica(self.job, self.backend, zeros, hosted=hosted, on_device=on_device)
