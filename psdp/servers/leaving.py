"""Signals to other ranks than rank 0: one to all of them ends the run, one to a single rank is a
notice that its machine is wanted, and it leaves: a rank that works hands over its workers, one that
holds a shard leaves it to who holds it too."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable
from dataclasses import dataclass

from psdp.errors import PeerLost
from psdp.job import Job
from psdp.records.console import Console
from psdp.servers.deciding import Deciding
from psdp.servers.ending import asked_to_end
from psdp.servers.membership import Membership
from psdp.servers.serving import Serving
from psdp.transport import messages as m

NOTICE_S = 0.3
"""How long a signal to a rank waits for rank 0's own: launchers signal all ranks at once."""


@dataclass(frozen=True)
class Notice:
    """A rank was asked to end by this signal; rank 0 would have got it too, until this time."""

    by: str
    due_s: float


class Leaving:
    """Ranks that were asked to end while rank 0 was not.

    Args:
        now: a clock in seconds.
    """

    def __init__(
        self,
        job: Job,
        serving: Serving,
        membership: Membership,
        deciding: Deciding,
        console: Console,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self._job = job
        self._serving = serving
        self._membership = membership
        self._deciding = deciding
        self._console = console
        self._now = now
        self._notices: dict[int, Notice] = {}
        self._excused = False
        """Whether a rank that holds a shard is leaving. Others tell again in the term after it."""

    def asked(self, rank: int, number: int) -> None:
        """Another rank was asked to end by a signal.

        Raises:
            Stopped: it alone holds a shard.
        """
        by, job = signal.Signals(number).name, self._job
        holds = rank in job.holding
        if holds and len(job.holders[job.shard_of(rank)]) == 1:
            raise asked_to_end(by, rank)
        if (holds and not self._excused) or self._membership.has(rank):
            self._notices[rank] = Notice(by, self._now() + NOTICE_S)

    def heed(self) -> None:
        """Let ranks go that alone were asked to.

        Raises:
            Stopped: the others cannot go on without them.
        """
        for rank in [rank for rank, notice in self._notices.items() if notice.due_s <= self._now()]:
            by, holds = self._notices[rank].by, rank in self._job.holding
            here = not self._excused if holds else self._membership.has(rank)
            if here and not self._lets_go(rank, by):
                raise asked_to_end(by, rank)
            del self._notices[rank]
            how = "leaves its shard to another" if holds else "hands over its workers and leaves"
            if here:
                self._console.say(f"rank {rank} alone got {by}: it {how}")

    def _lets_go(self, rank: int, by: str) -> bool:
        """Have a rank leave; say whether the others can go on without it."""
        if not self._job.mode.survives_loss or self._deciding.replays:
            return False
        if rank in self._job.holding:
            return self._excuse(rank, by)
        return self._membership.let_go(rank)

    def _excuse(self, rank: int, by: str) -> bool:
        """Let a rank end that holds a shard; say whether another one holds the same, which nobody
        has asked to end."""
        endpoint = self._serving.endpoint
        try:
            self._job.without({*self._notices, *endpoint.lost})
        except PeerLost:
            return False
        self._excused = True
        endpoint.send(rank, m.Excused(signal.Signals[by]))
        return True
