"""Which rank computes for which worker.

Data, dropout and the order of sums belong to workers, which have numbers from 1 on, so that a
result does not depend on who computes it. A rank hosts one of them or several, or is spare.
Pure, like the policies: every rank derives the first hosting alike, and rank 0 tells of changes.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Container, Sequence


class Hosting:
    """Workers and the ranks that compute for them: at first as evenly as can be, in their order.

    Args:
        workers: numbers, rising.
        ranks: that compute, or wait to.
        spares: so many of them, the last, are spare; so are others beyond the workers.

    Attributes:
        most: workers that a rank has at first.
        crowd: workers that ranks have beyond so many by now: guests before their own, and of these
            those of lower numbers.
    """

    def __init__(self, workers: Sequence[int], ranks: Sequence[int], spares: int = 0) -> None:
        self.ranks = tuple(ranks)
        computing = ranks[: len(ranks) - spares]
        few, more = divmod(len(workers), len(computing))
        hosts = [rank for n, rank in enumerate(computing) for _ in range(few + (n < more))]
        self._host = dict(zip(workers, hosts, strict=True))
        self._first = dict(self._host)
        self._before: set[tuple[int, int]] = set()
        self.most = few + (more > 0)
        self.crowd: tuple[int, ...] = ()

    def host(self, worker: int) -> int | None:
        """Return the rank that computes for a worker; None if there is no such worker."""
        return self._host.get(worker)

    def hosted(self, rank: int) -> tuple[int, ...]:
        """Return the workers of a rank, rising."""
        return tuple(worker for worker, host in self._host.items() if host == rank)

    def move(self, worker: int, rank: int) -> None:
        """Let another rank compute for a worker from now on."""
        assert rank in self.ranks, rank
        self._before.add((worker, self._host[worker]))
        self._before.discard((worker, rank))
        self._host[worker] = rank
        loads: Counter[int] = Counter()
        crowd = []
        for each in sorted(self._host, key=lambda each: (self.is_guest(each), -each)):
            loads[self._host[each]] += 1
            if loads[self._host[each]] > self.most:
                crowd.append(each)
        self.crowd = tuple(sorted(crowd))

    def is_guest(self, worker: int) -> bool:
        """Say whether another rank computed for a worker at first."""
        return self._host[worker] != self._first[worker]

    def hosted_once(self, rank: int, worker: int) -> bool:
        """Say whether a rank has computed for a worker that is another's now: what it still says of
        it does not count."""
        return (worker, rank) in self._before

    def heirs(self, lost: int, gone: Container[int] = ()) -> dict[int, int]:
        """Return which rank each worker of a lost one should go to: the one that has the fewest
        then, the first of these; nothing if none is left.

        Args:
            gone: ranks that are lost as well.
        """
        loads = {
            rank: len(self.hosted(rank)) for rank in self.ranks if rank != lost and rank not in gone
        }
        heirs: dict[int, int] = {}
        for worker in self.hosted(lost) if loads else ():
            heirs[worker] = min(loads, key=lambda rank: (loads[rank], rank))
            loads[heirs[worker]] += 1
        return heirs
