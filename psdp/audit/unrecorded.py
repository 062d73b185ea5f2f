"""What a start that was not recorded leaves to be checked: its train records."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path

from psdp.audit.findings import Contradiction, Findings, expect, many
from psdp.audit.starts import Part, Record, read_metrics
from psdp.job import Job
from psdp.records.folder import METRICS

Reached = tuple[int, Mapping[int, int]]
"""The units in a version, and the clocks of workers."""


class Unrecorded:
    """The train records of a part of a run without events.

    Args:
        wanted: versions of which :attr:`reached` is kept, beside the last.

    Attributes:
        reached: by version, what its record says.
        clocks: of each worker, by the last of them.
        version, units: likewise.
    """

    def __init__(self, run: Path, part: Part, job: Job, wanted: Collection[int]) -> None:
        self.run = run
        self.part = part
        self.job = job
        self.clocks: Mapping[int, int] = dict.fromkeys(job.workers, 0)
        self.version, self.units = part.start.version, part.start.units or 0
        self.reached: dict[int, Reached] = {}
        self._wanted = wanted
        self._count = 0

    def check(self, findings: Findings) -> None:
        """See that versions, units and clocks rise, and agree with one another."""
        path = self.run / METRICS
        with findings.checking("train records", path):
            unit, lines = self.job.task.unit, self.part.start.lines
            for record in read_metrics(self.run, unit, lines, "train"):
                if self.part.holds(record.version):
                    self._take(record)
            findings.proved(
                "train records",
                f"metrics.jsonl: {many(self._count, 'record')} from version "
                f"{self.part.start.version} to {self.version}: versions, units and clocks rise, "
                "and there are as many units as clocks say, within the budget",
            )

    def _take(self, record: Record) -> None:
        clocks, job = _clocks(record, self.job), self.job
        version, units = record.version, record.units
        for good, text in (
            (version > self.version, f"version {version} comes after {self.version}"),
            (units > self.units, f"{units} {job.units_name} come after {self.units}"),
            (
                all(clocks[worker] >= clock for worker, clock in self.clocks.items()),
                "a clock goes backwards",
            ),
            (
                units == sum(clocks.values()) * job.units_per_gradient,
                f"{units} {job.units_name} are not what clocks of {sum(clocks.values())} gradients "
                "come to",
            ),
            (units <= job.units, f"{units} {job.units_name} are more than the budget"),
            (
                job.mode.served or set(clocks.values()) == {version},
                "workers that take every step together have not taken the same",
            ),
        ):
            expect(good, text, record.place)
        self._check_staleness(clocks, record)
        self.clocks, self.version, self.units = clocks, version, units
        self._count += 1
        if version in self._wanted:
            self.reached[version] = units, clocks

    def _check_staleness(self, clocks: Mapping[int, int], record: Record) -> None:
        mode, bound = self.job.mode, self.job.config.run.staleness
        if mode.has("staleness") and not mode.chooses and bound is not None:
            ahead = max(clocks.values()) - min(clocks.values())
            # Who goes on at the bound is one clock further when it has pushed.
            expect(
                ahead <= bound + 1,
                f"a worker is {ahead} clocks ahead, {bound} are allowed when it goes on",
                record.place,
            )


def _clocks(record: Record, job: Job) -> dict[int, int]:
    """
    Raises:
        Contradiction: it does not say the clock of each worker.
    """
    told = record.content.get("clocks")
    try:
        assert isinstance(told, dict)
        clocks = {int(worker): int(clock) for worker, clock in told.items()}
        assert clocks.keys() == set(job.workers)
    except (AssertionError, ValueError, TypeError):
        raise Contradiction("it does not say the clock of each worker", record.place) from None
    return clocks
