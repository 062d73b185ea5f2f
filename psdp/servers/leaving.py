"""Signals to other ranks than rank 0: one to all of them ends the run, one to a single rank that
works is a notice that its machine is wanted, and it hands over its workers and leaves."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable
from dataclasses import dataclass

from psdp.job import Job
from psdp.records.console import Console
from psdp.servers.deciding import Deciding
from psdp.servers.ending import asked_to_end
from psdp.servers.membership import Membership

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
        membership: Membership,
        deciding: Deciding,
        console: Console,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self._job = job
        self._membership = membership
        self._deciding = deciding
        self._console = console
        self._now = now
        self._notices: dict[int, Notice] = {}

    def asked(self, rank: int, number: int) -> None:
        """Another rank was asked to end by a signal.

        Raises:
            Stopped: it is a server.
        """
        by = signal.Signals(number).name
        if rank in self._job.holding:
            raise asked_to_end(by, rank)
        if self._membership.has(rank):
            self._notices[rank] = Notice(by, self._now() + NOTICE_S)

    def heed(self) -> None:
        """Let ranks go that alone were asked to.

        Raises:
            Stopped: the others cannot go on without them.
        """
        for rank in [rank for rank, notice in self._notices.items() if notice.due_s <= self._now()]:
            by = self._notices.pop(rank).by
            if not self._membership.has(rank):
                continue
            bearable = self._job.mode.survives_loss and not self._deciding.replays
            if not bearable or not self._membership.let_go(rank):
                raise asked_to_end(by, rank)
            self._console.say(f"rank {rank} alone got {by}: it hands over its workers and leaves")
