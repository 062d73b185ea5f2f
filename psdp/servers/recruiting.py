"""Spare ranks that come to stand by, at the rank that leads: one where a shard has a single holder
left."""

from __future__ import annotations

import time
from collections.abc import Callable

from psdp.job import Job
from psdp.servers.changing import TermEnds
from psdp.servers.evaluating import Evaluating
from psdp.servers.keeping import Keeping
from psdp.servers.membership import Membership

PATIENCE_S = 5.0
"""How long a rank that can stand by waits for checkpoints that are being written: those that are
not complete are lost with the term."""


class Recruiting:
    """Calls one spare rank after the other.

    Args:
        now: a clock in seconds.
    """

    def __init__(
        self,
        job: Job,
        membership: Membership,
        evaluating: Evaluating,
        keeping: Keeping,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self._membership = membership
        self._evaluating = evaluating
        self._keeping = keeping
        self._now = now
        bare = (shard for shard, ranks in enumerate(job.holders) if len(ranks) == 1)
        self._shard = next(bare, None) if job.stands_by else None
        self._called: int | None = None
        self._ready_s: float | None = None
        """Since when who was called can stand by."""

    def standing(self, rank: int) -> None:
        """A rank has made what it takes to hold a shard."""
        if rank == self._called:
            self._ready_s = self._now()

    def look(self) -> None:
        """Call a spare rank, if a shard needs one; let the next term begin if it is ready.

        Raises:
            TermEnds: that rank is to hold the shard.
        """
        if self._shard is None:
            return
        spares = self._membership.spares
        if self._called not in spares:  # lost, or called to compute
            self._called = self._ready_s = None
            self._membership.reserved.clear()
        if not spares or self._evaluating.last is not None:
            return
        if self._called is None:
            self._called = spares[0]
            self._membership.call(self._called, self._shard)
        elif self._ready_s is not None:
            late = self._now() >= self._ready_s + PATIENCE_S
            if late or self._keeping.idle():
                raise TermEnds(self._called, shard=self._shard)
