"""Spare ranks that are called, at the rank that leads: one where a shard has a single holder left,
to stand by; else one where ranks compute for workers of others, to take these."""

from __future__ import annotations

import time
from collections.abc import Callable

from psdp.job import Job
from psdp.servers.answering import Answering
from psdp.servers.changing import TermEnds
from psdp.servers.deciding import Deciding
from psdp.servers.evaluating import Evaluating
from psdp.servers.keeping import Keeping
from psdp.servers.membership import Membership
from psdp.servers.serving import Serving
from psdp.transport import messages as m

PATIENCE_S = 5.0
"""How long a rank that can stand by waits for checkpoints that are being written: those that are
not complete are lost with the term."""


class Recruiting:
    """Calls one spare rank after the other. What one has to make takes a second, in which others do
    its work.

    Args:
        now: a clock in seconds.
    """

    def __init__(
        self,
        job: Job,
        serving: Serving,
        membership: Membership,
        evaluating: Evaluating,
        answering: Answering,
        deciding: Deciding,
        keeping: Keeping,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self._serving = serving
        self._membership = membership
        self._evaluating = evaluating
        self._answering = answering
        self._deciding = deciding
        self._keeping = keeping
        self._now = now
        self._hosting = serving.receiving.hosting
        bare = (shard for shard, ranks in enumerate(job.holders) if len(ranks) == 1)
        self._shard = next(bare, None) if job.stands_by else None
        self._unfit: set[int] = set()
        """Those that are made to compute, though they have no workers: they hold no shard."""
        self._called: int | None = None
        self._ready_s: float | None = None
        """Since when who was called has made what it takes."""

    def ready(self, rank: int, *, computes: bool) -> None:
        """A rank has made what it takes, to compute or to stand by."""
        if rank == self._called:
            self._ready_s = self._now()
            if computes and self._shard is not None:
                self._unfit.add(rank)

    def look(self) -> None:
        """Call a spare rank, if one is needed; let it take part if it is ready.

        Raises:
            TermEnds: that rank is to hold a shard.
        """
        if not (self._shard is not None or self._crowd) or self._evaluating.last is not None:
            return
        if self._relieves():
            return
        spares = [rank for rank in self._membership.spares if rank not in self._unfit]
        if self._called not in spares:  # lost, unfit, or computing by now
            self._called = self._ready_s = None
            if spares:
                self._called = spares[0]
                shards = () if self._shard is None else (self._shard,)
                self._serving.endpoint.send(self._called, m.Prepare(shards))
        elif self._ready_s is not None:
            late = self._now() >= self._ready_s + PATIENCE_S
            if late or self._keeping.idle():
                raise TermEnds(self._called, shard=self._shard)

    def relieve(self) -> None:
        """Between two messages: if a worker waits that its rank has beyond its own, let who was
        called compute for it. One with something in hand would keep its rank from its own, with
        what is void."""
        if self._crowd and self._relieves():
            assert self._called is not None
            waiting = filter(self._answering.waits, self._crowd)
            if (worker := next(waiting, None)) is not None:
                self._membership.move(worker, self._called)

    @property
    def _crowd(self) -> tuple[int, ...]:
        return () if self._deciding.replays else self._hosting.crowd

    def _relieves(self) -> bool:
        """Say whether who was called is ready to compute for more workers."""
        if self._called is None or self._ready_s is None or self._shard is not None:
            return False
        fewer = len(self._hosting.hosted(self._called)) < self._hosting.most
        return fewer and self._membership.has(self._called)
