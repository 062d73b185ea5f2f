"""The step that opens memory: ranks share what they really open of one another's, and exchange
messages elsewhere.

Vectors are in the memory of the hosts here, or in that of GPUs (psdp.startup.on_devices).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

import numpy as np

from psdp.errors import ConfigError
from psdp.job import Job
from psdp.startup.settings import Location
from psdp.startup.step import Step, take
from psdp.terminal import voice_of
from psdp.transport.shared import MemoryCard, SharedMemory, SharedRegion, Window, open_memory
from psdp.transport.world import World

Card = TypeVar("Card")
"""What a peer needs to open a memory."""

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

    memory: SharedRegion | None
    windows: dict[int, Window]
    links: Links


def make_memory(
    job: Job, rank: int, *, shard: int | None = None, hosted: int = 1
) -> SharedMemory | None:
    """Return the memory that this rank may share; None where the settings or the system want
    none.

    Args:
        shard: that it holds; ``hosted``: workers that it computes for, if it holds none.
    """
    if job.config.run.transport == "messages":
        return None
    if shard is not None:
        count, size = COPIES + len(job.workers), len(job.shards[shard])
        dtype = np.dtype(job.config.run.dtype)
    else:
        count, size, dtype = 1, job.boxes(hosted)[-1].stop, job.codec.item

    say = voice_of(rank)
    try:
        return SharedMemory(count, size, dtype, say)
    except OSError as error:
        say(f"no memory can be shared ({error.strerror}): vectors go as MPI messages")
        return None


@dataclass(frozen=True)
class MemoryOpened:
    """What one rank tells: the ranks whose memory it has opened, and why not that of others."""

    ranks: tuple[int, ...]
    refused: tuple[str, ...]


@dataclass(frozen=True)
class Openings:
    """Who opened whose memory.

    Attributes:
        opened: of each rank, the ranks whose memory it has opened.
        refused: why memory on the same host could not be opened.
    """

    opened: Sequence[Sequence[int]]
    refused: Sequence[str]

    def pairs(self, job: Job) -> frozenset[tuple[int, int]]:
        """Return the pairs (server, worker) that opened one another's memory."""
        return frozenset((s, w) for s, w in pairs_of(job) if self.both(s, w))

    def mutual(self, windows: Mapping[int, Window], rank: int) -> dict[int, Window]:
        """Return those of a rank's windows whose owner has opened this rank's memory too."""
        return {peer: window for peer, window in windows.items() if self.both(rank, peer)}

    def both(self, a: int, b: int) -> bool:
        return b in self.opened[a] and a in self.opened[b]


@dataclass(frozen=True)
class OpenMemory(Step[dict[int, Window], MemoryOpened, Openings], Generic[Card]):
    """Open the memory of the peers on this host; what is this rank's are the windows.

    Args:
        hosts, cards: of every rank.
        open_one: opens a memory by its card, or raises OSError.
        must: whether a pair that shares no memory is an error.
    """

    job: Job
    rank: int
    hosts: Sequence[str]
    cards: Sequence[Card | None]
    open_one: Callable[[Card], Window]
    must: bool

    facts = MemoryOpened

    def act(self) -> tuple[dict[int, Window], MemoryOpened]:
        windows: dict[int, Window] = {}
        refused = []
        for peer in self._peers():
            card = self.cards[peer]
            assert card is not None
            try:
                windows[peer] = self.open_one(card)
            except OSError as error:
                refused.append(
                    f"rank {self.rank} cannot open the memory of rank {peer}: {error.strerror}"
                )
        return windows, MemoryOpened(tuple(sorted(windows)), tuple(refused))

    def agree(self, facts: Mapping[int, MemoryOpened]) -> Openings:
        refused = [reason for fact in facts.values() for reason in fact.refused]
        every = range(len(self.cards))
        opened = [facts[rank].ranks if rank in facts else () for rank in every]
        openings = Openings(opened, refused)
        if self.must:
            insist(self.job, openings)
        return openings

    def _peers(self) -> list[int]:
        """Return the ranks on this host with which this one exchanges vectors, if it shares its
        memory and they share theirs."""
        own, cards = self.rank, self.cards
        if cards[own] is None:
            return []
        holding = self.job.holding
        peers = range(len(cards)) if own in holding else holding
        near = (peer for peer in peers if self.hosts[peer] == self.hosts[own] and peer != own)
        return [peer for peer in near if cards[peer] is not None]


def meet(
    world: World,
    job: Job,
    locations: Sequence[Location],
    memory: SharedMemory | None,
    cards: Sequence[MemoryCard | None],
    why_not_on_devices: str | None,
) -> Meeting:
    """Open the memory of peers on this host. All ranks must call this together.

    Args:
        memory: of this rank; ``cards``: of every rank's.

    Raises:
        StartRefused: ``--transport shared`` asked for what is not possible; rank 0 has said so.
    """
    hosts, must = [at.host for at in locations], job.config.run.transport == "shared"
    windows, openings = take(world, OpenMemory(job, world.rank, hosts, cards, open_memory, must))
    return Meeting(
        memory,
        openings.mutual(windows, world.rank),
        links(job, openings, why_not_on_devices),
    )


def links(job: Job, openings: Openings, why_not_on_devices: str | None = None) -> Links:
    """Return how the pairs of a job exchange vectors by way of the hosts' memory."""
    why_not = next(iter(openings.refused), None)
    pairs = len(pairs_of(job))
    return Links(openings.pairs(job), pairs, why_not, why_not_on_devices=why_not_on_devices)


def insist(job: Job, openings: Openings) -> None:
    """See that all servers and workers share memory, which ``--transport shared`` asks for.

    Raises:
        ConfigError: a pair of them does not.
    """
    shared = openings.pairs(job)
    for server, worker in pairs_of(job):
        if (server, worker) not in shared:
            why_not = next(
                iter(openings.refused),
                "they are on different hosts, or one of them has none to share",
            )
            raise ConfigError(
                f"--transport shared: server {server} and worker {worker} share no memory "
                f"({why_not}); drop the flag to let them exchange MPI messages"
            )


def pairs_of(job: Job) -> list[tuple[int, int]]:
    """Return all pairs (server, rank that computes) of a job."""
    return [(server, worker) for server in job.holding for worker in job.computing]
