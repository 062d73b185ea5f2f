"""The step that opens devices. Whether the ranks that share a GPU fit into it is known before any
of them fills it."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from psdp.backend import Backend, make_backend
from psdp.backend.gpu.backend import GpuBackend
from psdp.errors import DeviceMemoryError
from psdp.job import Job
from psdp.nn.memory import describe
from psdp.params import Zeros
from psdp.startup.settings import Location
from psdp.startup.step import Step
from psdp.workers.replica import Replica


@dataclass(frozen=True)
class Needs:
    """What a rank's GPU is and has, and what the rank must hold there, in bytes.

    Attributes:
        needed: in any case; ``largest`` says what of it is largest.
        vectors: beside it where vectors are on GPUs.
        slot: as much again for each worker whose gradient it receives.
    """

    name: str
    free: int
    total: int
    needed: int
    largest: str
    vectors: int
    slot: int


@dataclass(frozen=True)
class DeviceOpened:
    """What one rank tells of its device: what it needs of a GPU, None on a CPU."""

    needs: Needs | None


@dataclass(frozen=True)
class OpenDevice(Step[Backend | None, DeviceOpened, list[Needs | None]]):
    """Open the device that this rank computes with; None for a server on a CPU."""

    job: Job
    rank: int
    location: Location

    facts = DeviceOpened

    def act(self) -> tuple[Backend | None, DeviceOpened]:
        run, at = self.job.config.run, self.location
        if self.rank in self.job.holding:
            if run.server_device == "cpu":
                return None, DeviceOpened(None)
            backend = make_backend(
                "gpu", run.dtype, at.local_rank, kernels="compiled", flag="--server-device"
            )
        else:
            backend = make_backend(
                run.device,
                run.dtype,
                at.local_rank,
                kernels=run.kernels,
                precision=run.precision,
                threads=at.threads,
            )
        return backend, DeviceOpened(needs_of(backend, self.job, self.rank))

    def agree(self, facts: Mapping[int, DeviceOpened]) -> list[Needs | None]:
        at = range(self.job.world_size)
        return [facts[rank].needs if rank in facts else None for rank in at]


def needs_of(backend: Backend, job: Job, rank: int) -> Needs | None:
    """Return what a rank's GPU is, has and must hold; None on a CPU."""
    if not isinstance(backend, GpuBackend):
        return None
    run = job.config.run
    if rank in job.holding:
        # Weights, gradient, and no optimizer has more than two vectors of its own.
        size = len(job.shards[job.shard_of(rank)])
        parts = Counter({"optimizer": 4 * size * backend.dtype.itemsize})
        optim = job.config.optim
        others = copies_of_weights(job) - 2 + (not job.codec.as_it_is) + (optim.ema > 0)
        others += optim.lag_compensation == "dc-asgd"
        vectors, slot = others * size * backend.dtype.itemsize, job.codec.bound_bytes(size)
    else:
        vectors, slot = 0, 0
        parts = job.task.training_memory(backend)
        if not job.codec.as_it_is:
            pushed = sum(job.codec.bound_bytes(len(shard)) for shard in job.shards)
            remembered = sum(job.codec.memory_bytes(len(shard)) for shard in job.shards)
            parts["encoded gradient"] = pushed + remembered
        if run.overlap:
            # What travels is not what is computed on, or to, unless it is rounded anyhow.
            vectors = (1 + job.codec.as_it_is) * job.table.size * backend.dtype.itemsize
    free, total = backend.device.memory()
    return Needs(backend.device.name, free, total, parts.total(), describe(parts), vectors, slot)


def copies_of_weights(job: Job) -> int:
    """Return how many versions of its weights a server may have to keep at once.

    Beside the present one each worker may read one, and be computing on another one that delay
    compensation goes back to. In a round of all nobody reads any more when all have pushed; beside
    it there is what is evaluated.
    """
    config = job.config
    if config.in_rounds and not config.run.backup_workers:
        return 3
    compensates = config.optim.lag_compensation == "dc-asgd"
    return 2 + len(job.workers) * (1 + compensates)


def needs_by_gpu(
    needs: Sequence[Needs | None], hosts: Sequence[str]
) -> dict[tuple[str, str], list[tuple[int, Needs]]]:
    """Return the ranks that share each GPU, a host and a name, and what each needs of it."""
    found: defaultdict[tuple[str, str], list[tuple[int, Needs]]] = defaultdict(list)
    for rank, (need, host) in enumerate(zip(needs, hosts, strict=True)):
        if need is not None:
            found[host, need.name].append((rank, need))
    return found


def check_room(needs: Sequence[Needs | None], hosts: Sequence[str], rank: int) -> None:
    """
    Args:
        needs: of every rank, see :func:`needs_of`.
        hosts: of every rank.

    Raises:
        DeviceMemoryError: the ranks on this rank's GPU need more memory than it has free.
    """
    own = needs[rank]
    if own is None:
        return
    sharing = [need for _, need in needs_by_gpu(needs, hosts)[hosts[rank], own.name]]
    needed, free = sum(other.needed for other in sharing), min(o.free for o in sharing)
    if needed <= free:
        return
    ranks = "1 rank needs" if len(sharing) == 1 else f"{len(sharing)} ranks need"
    raise DeviceMemoryError(
        f"{own.name} on {hosts[rank]} has {free / 2**30:.2f} of {own.total / 2**30:.2f} GiB "
        f"free, and its {ranks} {needed / 2**30:.2f} GiB (this one: {own.largest}); lower "
        f"--batch-size or --block-size, or start fewer ranks on a GPU"
    )


def make_replica(
    job: Job, backend: Backend, zeros: Zeros, *, hosted: int, on_device: bool
) -> Replica:
    """Return a worker's model.

    Raises:
        DeviceMemoryError: its GPU has no room for it, though it seemed to have some.
    """
    try:
        return Replica(job, backend, zeros, hosted=hosted, on_device=on_device)
    except DeviceMemoryError as error:
        needs = needs_of(backend, job, job.computing[0])
        assert needs is not None, "a CPU has no such error"
        raise DeviceMemoryError(
            f"{error}; a worker holds {needs.needed / 2**30:.2f} GiB ({needs.largest}): "
            "lower --batch-size or --block-size, or free memory that others hold on it"
        ) from error
