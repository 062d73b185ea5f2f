"""The train records of a start beside the updates that its events make: the same numbers, to the
last bit."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

from psdp.audit.findings import Contradiction, expect
from psdp.audit.ledger import Ledger
from psdp.audit.starts import Record
from psdp.backend.squares import norm_of
from psdp.job import Job
from psdp.optim.schedule import Schedule
from psdp.protocol import Apply, Leave, Push
from psdp.records.metrics import Interval, finite


def steps_of(job: Job) -> Callable[[int, int, int], bool]:
    """Return what :meth:`psdp.job.Job.due` says, sooner: it is asked of every update."""
    per_step = job.units_per_step

    def ends(every: int, before: int, after: int) -> bool:
        return every > 0 and after // per_step // every > before // per_step // every

    return ends


class TrainRecords:
    """Takes updates as they are decided, and compares each record with those since the last.

    Args:
        records: of one start, in order.
        ledger: of that start.

    Attributes:
        count: records that agree.
        norms: of these, those whose grad_norm is that of one gradient, which its push tells.
    """

    def __init__(self, job: Job, records: Iterator[Record], ledger: Ledger) -> None:
        self.count = self.norms = 0
        self._job = job
        self._ledger = ledger
        self._records = records
        self._next = next(records, None)
        self._first = ledger.version + 1
        self._schedule = Schedule(job.config.optim, job.config.run.max_steps)
        self._units, self._all = ledger.units, job.units
        self._ends_step, self._log_every = steps_of(job), job.config.run.log_every
        self._interval = Interval(0.0)
        self._owed: int | None = None
        """The first version that a record is due of after the last."""

    def updated(self, apply: Apply, loss: float, event: Push | Leave) -> None:
        """Take an update that the ledger has counted; ``event`` made it due.

        Raises:
            Contradiction: the record of it says something else, or there is none.
        """
        before, self._units = self._units, self._ledger.units
        self._interval.add(apply, loss)
        record, version = self._next, apply.version
        if record is None:
            if self._owed is None and self._due(version, before):
                self._owed = version
            return
        if record.version > version:
            if self._due(version, before):
                text = f"there is no train record of version {version}, where one is due"
                raise Contradiction(text, record.place)
            return
        if record.version != version:
            text = f"a train record is of version {record.version}, which comes before {version}"
            raise Contradiction(text, record.place)
        expected = self._expected(apply, event, before)
        self._compare(record, expected)
        self.norms += "grad_norm" in expected
        self._interval = Interval(0.0)
        self._next = next(self._records, None)
        self.count += 1

    def close(self, *, whole: bool) -> None:
        """No update comes any more.

        Args:
            whole: whether all of them must have been noted; a run that is cut off may not have come
                to the last.

        Raises:
            Contradiction: there are records of more updates, or of fewer.
        """
        last = self._ledger.version
        if self._next is not None:
            expect(
                False,
                f"there is a train record of version {self._next.version}, the events make "
                f"{last} the last",
                self._next.place,
            )
        if self._owed is not None:
            decided = last - self._owed < len(self._job.workers)
            expect(decided and not whole, f"there is no train record of version {self._owed}")

    def _due(self, version: int, before: int) -> bool:
        units = self._units
        ends = units == self._all or self._ends_step(self._log_every, before, units)
        return ends or version == self._first

    def _expected(self, apply: Apply, event: Push | Leave, before: int) -> dict[str, Any]:
        expected = {
            f"{self._job.units_name}": self._units,
            "loss": finite(self._interval.loss),
            "lr": self._schedule.lr(before / self._job.units_per_step),
            "version_lag": self._interval.lags.mean(),
            "clocks": {str(worker): clock for worker, clock in self._ledger.clocks.items()},
        }
        if len(apply.slots) == 1 and isinstance(event, Push):
            squares = event.work.sum_of_squares
            if math.isfinite(squares):
                expected["grad_norm"] = norm_of((squares,))
        return expected

    def _compare(self, record: Record, expected: dict[str, Any]) -> None:
        for name, value in expected.items():
            told = record.content.get(name)
            expect(
                told == value,
                f"{name} of version {record.version} is {told!r}, the events make it {value!r}",
                record.place,
            )
