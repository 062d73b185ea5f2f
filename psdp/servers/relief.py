"""Errors that nobody has meant, at a rank that holds a shard with another one: that one goes on, as
if this rank were lost, unless it has come to the same error. And as if it were lost if this rank is
to leave."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable
from contextlib import suppress

from psdp.errors import PsdpError
from psdp.job import Job
from psdp.servers.ending import Ended, Stopped
from psdp.servers.serving import Serving
from psdp.signals import status_after
from psdp.transport import Arrival, Lost
from psdp.transport import messages as m


class Excused(Ended):
    """This rank was asked to end by a signal, and others go on with its shard."""

    def __init__(self, number: int) -> None:
        by = signal.Signals(number).name
        text = f"got {by} alone, and leaves its shard to another rank"
        super().__init__(text, status_after(number))


PATIENCE_S = 2.0
"""How long a server waits for the word of who stands by for it."""

TICK_S = 0.01


class Relief:
    """Finds whether another rank goes on with the shard of this one.

    Args:
        now: a clock in seconds.
    """

    def __init__(
        self, job: Job, serving: Serving, now: Callable[[], float] = time.monotonic
    ) -> None:
        self._serving = serving
        self._standby = job.standby_of(serving.endpoint.rank)
        self._holds_alone = len(job.holders[job.shard_of(serving.endpoint.rank)]) == 1
        self._now = now
        self._found: dict[int, bool] = {}
        """By errors."""

    def found(self, error: BaseException) -> bool:
        """Say whether the run goes on without this rank, after an error here."""
        if isinstance(error, Excused):
            return True
        if id(error) not in self._found:
            unmeant = isinstance(error, Exception | SystemExit)
            meant = isinstance(error, PsdpError | Stopped | Ended)
            may = unmeant and not meant and not self._holds_alone
            self._found[id(error)] = may and (self._standby is None or self._asked(self._standby))
        return self._found[id(error)]

    def _asked(self, standby: int) -> bool:
        """Ask who stands by whether it has come past what this rank was at."""
        endpoint, updating = self._serving.endpoint, self._serving.order.updating
        version = self._serving.progress.version if updating is None else updating.version
        endpoint.send(standby, m.Relieve(version))
        deadline_s = self._now() + PATIENCE_S
        while self._now() < deadline_s and not endpoint.has_lost(standby):
            with suppress(Exception, SystemExit):  # what is told is the first error
                match endpoint.receive(TICK_S):
                    case Arrival(peer, m.Relieved()) if peer == standby:
                        return True
                    case Arrival(peer, m.PartialNorm() as message):
                        self._serving.take(peer, message)  # should the run have to be saved
                    case Lost(peer) if peer == standby:
                        return False
        return False
