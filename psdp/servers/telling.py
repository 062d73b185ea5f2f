"""How decisions reach all that hold a shard: who leads tells the others, and does the same."""

from __future__ import annotations

from typing import Any

from psdp.job import Job
from psdp.protocol import order as o
from psdp.records.record import Record
from psdp.servers.serving import Serving
from psdp.servers.updates import messages_of
from psdp.transport import Sending
from psdp.transport import messages as m


class Telling:
    """Tells the others, at the rank that leads.

    Args:
        record: of the events: others are told of its lines, if they may have to go on with it.
    """

    def __init__(self, job: Job, serving: Serving, record: Record | None = None) -> None:
        self._job = job
        self._serving = serving
        if record is not None and job.stands_by:
            record.tell = lambda *line: self.tell(m.Noted(*line))

    def tell(self, message: m.Message) -> list[Sending]:
        """Tell all others that hold a shard."""
        return [self._serving.endpoint.send(rank, message) for rank in self._job.holding[1:]]

    def decide(self, decision: Any, told: m.Message | None = None) -> None:
        """Have this shard do something after what was decided before, and all others the same."""
        if told is not None:
            self.tell(told)
        self._serving.happened(o.Decided(decision))

    def update(self, update: o.Update) -> None:
        """Have all make an update after what was decided before."""
        for part in messages_of(update):
            self.tell(part)
        self._serving.decided(update)
