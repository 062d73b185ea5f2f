"""A job without MPI: its ranks are threads of this process.

Each sees a :class:`InMemoryWorld`, which behaves as MPI's: a rank may end all, an exception that
nobody catches does, and so does the loss of a rank before endpoints are there to tell of it.
"""

from __future__ import annotations

import math
import sys
import threading
import time
import traceback
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from typing import NoReturn

from psdp.transport.devices import MemorySpace
from psdp.transport.in_memory import (
    Aborted,
    InMemoryEndpoint,
    InMemoryNetwork,
    InMemorySums,
    Killed,
    MemoryReducer,
)
from psdp.transport.link import Link
from psdp.transport.shared import Neighbours
from psdp.transport.world import World

End = int | BaseException
"""How a rank ended: with the status that it returned, or with what it raised."""


class InMemoryWorlds:
    """The worlds of all ranks of a job.

    Args:
        hosts: of each rank.

    Attributes:
        worlds: of each rank.
        status: with which a rank ended all; None if none has.
    """

    def __init__(self, hosts: Sequence[str]) -> None:
        self.network = InMemoryNetwork(len(hosts))
        self.status: int | None = None
        self.worlds = [
            InMemoryWorld(self, rank, host, range(len(hosts))) for rank, host in enumerate(hosts)
        ]
        self._told: defaultdict[tuple[int, ...], dict[int, bytes]] = defaultdict(dict)
        """By the ranks that exchange, what each has brought."""
        self._sums: dict[tuple[int, ...], InMemorySums] = {}

    def run(self, life: Callable[[World], int], timeout_s: float) -> list[End]:
        """Let all ranks live; return how each ended.

        Raises:
            TimeoutError: some live longer than ``timeout_s``; the text says where they are.
        """
        ends: list[End] = [0] * len(self.worlds)

        def live(world: InMemoryWorld) -> None:
            try:
                ends[world.rank] = life(world)
            except BaseException as error:
                ends[world.rank] = error
                if not isinstance(error, Killed | Aborted):
                    self.abort(1)

        threads = [
            threading.Thread(target=live, args=(world,), name=f"rank {world.rank}", daemon=True)
            for world in self.worlds
        ]
        for thread in threads:
            thread.start()
        deadline_s = time.monotonic() + timeout_s
        for thread in threads:
            thread.join(max(0.0, deadline_s - time.monotonic()))
        if hanging := [thread for thread in threads if thread.is_alive()]:
            where = _stacks(hanging)
            self.abort(1)
            raise TimeoutError(f"still running after {timeout_s:g} s:\n{where}")
        return ends

    def abort(self, status: int) -> None:
        """End every rank when it next does anything; the first status stands."""
        with self.network.changed:
            if self.status is None:
                self.status = status
            self.network.abort()

    def exchange(
        self, rank: int, ranks: Sequence[int], data: bytes, timeout_s: float
    ) -> list[bytes]:
        """Return what these ranks brought to this exchange, in their order.

        Raises:
            TimeoutError: not all came within ``timeout_s``.
        """
        changed, among = self.network.changed, tuple(ranks)

        def complete() -> bool:
            self.network.check(rank)
            return len(told) == len(among) or any(map(self.network.is_dead, among))

        with changed:
            told = self._told[among]
            told[rank] = data
            if len(told) == len(among):
                del self._told[among]
                changed.notify_all()
            if not changed.wait_for(complete, min(timeout_s, threading.TIMEOUT_MAX)):
                raise TimeoutError
        if len(told) < len(among):
            self.abort(1)
            raise Aborted
        return [told[other] for other in among]

    def sums(self, ranks: Iterable[int]) -> InMemorySums:
        """Return the sums of these ranks."""
        members = tuple(ranks)
        with self.network.changed:
            return self._sums.setdefault(members, InMemorySums(len(members)))


class InMemoryWorld:
    """The :class:`psdp.transport.world.World` of one rank."""

    library = "no MPI, ranks are threads"

    def __init__(
        self, all_worlds: InMemoryWorlds, rank: int, host: str, ranks: Sequence[int]
    ) -> None:
        self.rank = rank
        self.ranks = ranks
        self.host = host
        self._all = all_worlds

    @property
    def size(self) -> int:
        return len(self._all.worlds)

    def exchange(self, data: bytes, timeout_s: float = math.inf) -> list[bytes]:
        return self._all.exchange(self.rank, self.ranks, data, timeout_s)

    def among(self, ranks: Sequence[int]) -> InMemoryWorld:
        return InMemoryWorld(self._all, self.rank, self.host, ranks)

    def endpoint(
        self,
        peers: Iterable[int],
        neighbours: Neighbours | None = None,
        link: Link | None = None,
        vectors: MemorySpace | None = None,
    ) -> InMemoryEndpoint:
        return InMemoryEndpoint(self._all.network, self.rank, peers, neighbours, link, vectors)

    def reducer(self, ranks: Iterable[int]) -> MemoryReducer:
        members = list(ranks)
        index = members.index(self.rank)
        return self._all.sums(members).reducer(index, lambda: self._all.network.check(self.rank))

    @property
    def survives(self) -> bool:
        return False  # a rank that is lost here has been killed

    def abort(self, code: int, *, known: bool = False) -> NoReturn:
        self._all.network.check(self.rank)
        self._all.abort(code)
        raise Aborted

    def die(self) -> NoReturn:
        """Let this rank be dead from now on, as if by SIGKILL."""
        self._all.network.kill(self.rank)
        raise Killed


def _stacks(threads: Sequence[threading.Thread]) -> str:
    """Return where these threads are."""
    frames = sys._current_frames()  # noqa: SLF001 (documented, whatever its name)
    return "\n".join(
        f"{thread.name}:\n{''.join(traceback.format_stack(frames[thread.ident])[-6:])}"
        for thread in threads
        if thread.ident in frames
    )
