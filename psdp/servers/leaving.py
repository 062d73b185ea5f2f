"""Signals to other ranks than rank 0: one to all of them ends the run, one to a worker alone is a
notice that its machine is wanted, and the worker hands over its work and leaves."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable
from dataclasses import dataclass

from psdp.job import Job
from psdp.records.console import Console
from psdp.servers.answering import Answering
from psdp.servers.deciding import Deciding
from psdp.servers.ending import asked_to_end

NOTICE_S = 0.3
"""How long a signal to a worker waits for rank 0's own: launchers signal all ranks at once."""


@dataclass(frozen=True)
class Notice:
    """A worker was asked to end by this signal; rank 0 would have got it too, until this time."""

    by: str
    due_s: float


class Leaving:
    """Workers that were asked to end while rank 0 was not.

    Args:
        leave: does without a worker from now on.
        now: a clock in seconds.
    """

    def __init__(
        self,
        job: Job,
        answering: Answering,
        deciding: Deciding,
        console: Console,
        leave: Callable[[int], None],
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self._job = job
        self._answering = answering
        self._deciding = deciding
        self._console = console
        self._leave = leave
        self._now = now
        self._notices: dict[int, Notice] = {}
        self._going: set[int] = set()

    def asked(self, rank: int, number: int) -> None:
        """Another rank was asked to end by a signal.

        Raises:
            Stopped: it is a server.
        """
        by = signal.Signals(number).name
        if rank in self._job.servers:
            raise asked_to_end(by, rank)
        if rank in self._answering.live:
            self._notices[rank] = Notice(by, self._now() + NOTICE_S)

    def heed(self) -> None:
        """Let workers go that alone were asked to.

        Raises:
            Stopped: the others cannot go on without them.
        """
        for rank in [rank for rank, notice in self._notices.items() if notice.due_s <= self._now()]:
            by = self._notices.pop(rank).by
            alone = self._answering.live <= self._going | {rank}
            if alone or self._deciding.replays or not self._job.mode.survives_loss:
                raise asked_to_end(by, rank)
            self._going.add(rank)
            self._console.say(f"rank {rank} alone got {by}: it hands over its work and leaves")

    def answers(self, rank: int) -> bool:
        """Answer a worker that is to leave, for the last time unless it owes an evaluation first;
        say whether it is one. What it has pushed counts, what it was to do next is others'."""
        if rank not in self._going:
            return False
        if self._answering.stop(rank):
            self._leave(rank)
        return True
