"""Which ranks share memory: those that really open one another's, all others exchange messages."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from psdp.errors import ConfigError
from psdp.job import Job
from psdp.transport.shared import Memory, Window

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
    """

    shared: frozenset[tuple[int, int]]
    pairs: int
    why_not: str | None

    @property
    def name(self) -> str:
        """``shared``, ``messages`` or, with several hosts, ``mixed``."""
        if not self.shared:
            return "messages"
        return "shared" if len(self.shared) == self.pairs else "mixed"

    def describe(self) -> str:
        """Return what a run says of it when it begins."""
        text = {
            "shared": "vectors in shared memory",
            "messages": "vectors as MPI messages",
            "mixed": f"vectors of {len(self.shared)} of {self.pairs} server-worker pairs in shared "
            "memory, others as MPI messages",
        }[self.name]
        return text if self.why_not is None else f"{text} ({self.why_not})"


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
    job: Job, rank: int, host: Sequence[str], cards: Sequence[Mapping[str, Any] | None]
) -> tuple[dict[int, Window], dict[int, str]]:
    """Return the memory of the peers on this host, and why that of others cannot be opened."""
    windows: dict[int, Window] = {}
    refused: dict[int, str] = {}
    peers = range(job.world_size) if rank in job.servers else job.servers
    for peer in peers:
        card = cards[peer]
        if peer == rank or host[peer] != host[rank] or cards[rank] is None or card is None:
            continue
        try:
            windows[peer] = Window(card)
        except OSError as error:
            refused[peer] = f"rank {rank} cannot open the memory of rank {peer}: {error.strerror}"
    return windows, refused


def mutual(windows: Mapping[int, Window], rank: int, met: Sequence[Any]) -> dict[int, Window]:
    """Return those windows whose owner has opened this rank's too; ``met`` of each rank: which it
    opened."""
    return {peer: window for peer, window in windows.items() if rank in met[peer]}


def links(job: Job, met: Sequence[Sequence[int]], refused: Sequence[str]) -> Links:
    """Return how the pairs of a job exchange vectors; ``met``: the ranks that each rank opened.

    Raises:
        ConfigError: ``--transport shared`` asked for what is not possible.
    """
    pairs = [(server, worker) for server in job.servers for worker in job.workers]
    shared = frozenset((s, w) for s, w in pairs if w in met[s] and s in met[w])
    why_not = next(iter(refused), None)
    if job.config.run.transport == "shared" and len(shared) < len(pairs):
        server, worker = next(pair for pair in pairs if pair not in shared)
        raise ConfigError(
            f"--transport shared: server {server} and worker {worker} share no memory "
            f"({why_not or 'they are on different hosts, or one of them has none to share'}); "
            "drop the flag to let them exchange MPI messages"
        )
    return Links(shared, len(pairs), why_not)
