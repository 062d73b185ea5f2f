"""Which ranks share memory: those that really open one another's, all others exchange messages.

Vectors are in the memory of the hosts here, or in that of GPUs (psdp.startup.on_devices).
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from psdp.errors import ConfigError
from psdp.job import Job
from psdp.startup.agree import together
from psdp.transport.mpi import World
from psdp.transport.shared import Arena, Memory, Window

COPIES = 8
"""Places for copies of a shard beside the one that each worker may read: the present one, and
snapshots that are evaluated or wait for the disk. A place that is not used takes no memory; a copy
beyond them is private, and goes as a message."""


@dataclass(frozen=True)
class Links:
    """How vectors go between the servers and the workers of a job.

    Attributes:
        shared: pairs (server, worker) that share memory.
        pairs: how many pairs there are.
        why_not: of the first pair on one host that does not, the reason.
        on_devices: whether vectors are in the memory of GPUs.
        why_not_on_devices: the reason where they could have been.
    """

    shared: frozenset[tuple[int, int]]
    pairs: int
    why_not: str | None
    on_devices: bool = False
    why_not_on_devices: str | None = None

    @property
    def name(self) -> str:
        """``shared``, ``messages`` or, with several hosts, ``mixed``; on GPUs ``gpu shared`` and so
        on."""
        kind = "mixed"
        if len(self.shared) in (0, self.pairs):
            kind = "shared" if self.shared else "messages"
        return f"gpu {kind}" if self.on_devices else kind

    def describe(self) -> str:
        """Return what a run says of it when it begins."""
        some = f"vectors of {len(self.shared)} of {self.pairs} server-worker pairs in"
        text = {
            "shared": "vectors in shared memory",
            "messages": "vectors as MPI messages",
            "mixed": f"{some} shared memory, others as MPI messages",
            "gpu shared": "vectors in GPU memory (CUDA IPC)",
            "gpu messages": "vectors from GPU to GPU as MPI messages",
            "gpu mixed": f"{some} GPU memory (CUDA IPC), others from GPU to GPU as MPI messages",
        }[self.name]
        if self.why_not is not None:
            text += f" ({self.why_not})"
        if self.why_not_on_devices is not None:
            text += f", not in GPU memory ({self.why_not_on_devices})"
        return text


@dataclass(frozen=True)
class Meeting:
    """What a rank shares with its peers, and how all pairs of the job exchange vectors.

    Attributes:
        memory: of this rank; None where it shares none.
        windows: the memory of the peers that share theirs and see this rank's.
    """

    memory: Arena | None
    windows: dict[int, Window]
    links: Links


def make_memory(job: Job, rank: int) -> Memory | None:
    """Return the memory that this rank may share; None where the settings or the system want
    none."""
    if job.config.run.transport == "messages":
        return None
    if rank in job.servers:
        count, size = COPIES + len(job.workers), len(job.shards[rank])
        dtype = np.dtype(job.config.run.dtype)
    else:
        count, size, dtype = 1, job.table.size, job.wire_dtype

    def say(text: str) -> None:
        print(f"psdp: rank {rank}: {text}", file=sys.stderr, flush=True)

    try:
        return Memory(count, size, dtype, say)
    except OSError as error:
        say(f"no memory can be shared ({error.strerror}): vectors go as MPI messages")
        return None


def open_windows(
    job: Job,
    rank: int,
    host: Sequence[str],
    cards: Sequence[Mapping[str, Any] | None],
    window: Callable[[Mapping[str, Any]], Window] = Window,
) -> tuple[dict[int, Window], dict[int, str]]:
    """Return the memory of the peers on this host, and why that of others cannot be opened.

    Args:
        window: opens one.
    """
    windows: dict[int, Window] = {}
    refused: dict[int, str] = {}
    peers = range(job.world_size) if rank in job.servers else job.servers
    for peer in peers:
        card = cards[peer]
        if peer == rank or host[peer] != host[rank] or cards[rank] is None or card is None:
            continue
        try:
            windows[peer] = window(card)
        except OSError as error:
            refused[peer] = f"rank {rank} cannot open the memory of rank {peer}: {error.strerror}"
    return windows, refused


def open_one_another(
    world: World,
    job: Job,
    host: Sequence[str],
    cards: Sequence[Mapping[str, Any] | None],
    window: Callable[[Mapping[str, Any]], Window] = Window,
) -> tuple[dict[int, Window], list[list[int]], list[str]]:
    """Return what this rank opened of its peers, which each rank opened, and why others could not
    be. All ranks must call this together."""

    def opening() -> tuple[dict[int, Window], dict[str, Any]]:
        windows, refused = open_windows(job, world.rank, host, cards, window)
        return windows, {"met": sorted(windows), "refused": list(refused.values())}

    windows, meetings = together(world, opening)
    refused = [reason for fact in meetings for reason in fact["refused"]]
    return windows, [fact["met"] for fact in meetings], refused


def meet(
    world: World,
    job: Job,
    host: Sequence[str],
    memory: Memory | None,
    cards: Sequence[Mapping[str, Any] | None],
    why_not_on_devices: str | None,
) -> Meeting:
    """Open the memory of peers on this host. All ranks must call this together.

    Raises:
        SystemExit: ``--transport shared`` asked for what is not possible; rank 0 has said so.
    """
    windows, met, refused = open_one_another(world, job, host, cards)

    def agreeing() -> tuple[Links, dict[str, Any]]:
        return links(job, met, refused, why_not_on_devices), {}

    how, _ = together(world, agreeing)
    return Meeting(memory, mutual(windows, world.rank, met), how)


def mutual(windows: Mapping[int, Window], rank: int, met: Sequence[Any]) -> dict[int, Window]:
    """Return those windows whose owner has opened this rank's too; ``met`` of each rank: which it
    opened."""
    return {peer: window for peer, window in windows.items() if rank in met[peer]}


def sharing(job: Job, met: Sequence[Sequence[int]]) -> frozenset[tuple[int, int]]:
    """Return the pairs (server, worker) that opened one another's memory; ``met``: the ranks whose
    memory each rank opened."""
    pairs = ((server, worker) for server in job.servers for worker in job.workers)
    return frozenset((s, w) for s, w in pairs if w in met[s] and s in met[w])


def links(
    job: Job,
    met: Sequence[Sequence[int]],
    refused: Sequence[str],
    why_not_on_devices: str | None = None,
) -> Links:
    """Return how the pairs of a job exchange vectors by way of the hosts' memory; ``met``: the
    ranks that each rank opened.

    Raises:
        ConfigError: ``--transport shared`` asked for what is not possible.
    """
    pairs = [(server, worker) for server in job.servers for worker in job.workers]
    shared = sharing(job, met)
    why_not = next(iter(refused), None)
    if job.config.run.transport == "shared" and len(shared) < len(pairs):
        server, worker = next(pair for pair in pairs if pair not in shared)
        raise ConfigError(
            f"--transport shared: server {server} and worker {worker} share no memory "
            f"({why_not or 'they are on different hosts, or one of them has none to share'}); "
            "drop the flag to let them exchange MPI messages"
        )
    return Links(shared, len(pairs), why_not, why_not_on_devices=why_not_on_devices)
