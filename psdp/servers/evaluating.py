"""Evaluations on rank 0: who evaluates what, what came of it, and whether it is the best."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable

from psdp.job import Job
from psdp.protocol import Evaluations, Sums
from psdp.records.metrics import Best
from psdp.records.recorder import Recorder
from psdp.servers.copies import Copies
from psdp.servers.serving import Serving
from psdp.terminal import harmless
from psdp.transport import messages as m


class Evaluating:
    """Evaluations under way.

    Args:
        best: the best so far.
        closed: called with the version of an evaluation that is over.

    Attributes:
        last: the version that the run ends with, once that is known.
    """

    def __init__(
        self,
        job: Job,
        serving: Serving,
        copies: Copies,
        recorder: Recorder,
        best: Best,
        *,
        closed: Callable[[int], None],
    ) -> None:
        self.best = best
        self.last: int | None = None
        self._job = job
        self._serving = serving
        self._copies = copies
        self._recorder = recorder
        self._closed = closed
        self._evaluations = Evaluations()
        # Of each worker: what it reported, which counts with the request that follows.
        self._reported: dict[int, m.Evaluated] = {}
        self._sampling: dict[int, str] = {}
        """Versions that make a text, and what of it is there."""

    def open(self, version: int, units: int, workers: Iterable[int]) -> None:
        """Have these workers evaluate a version, which has processed so many units, and of which
        every server keeps a snapshot."""
        self._evaluations.open(version, workers)
        if self._job.samples_at(units):
            self._sampling[version] = ""

    @property
    def versions(self) -> list[int]:
        """The versions that are being evaluated."""
        return self._evaluations.versions

    def is_open(self, version: int) -> bool:
        return self._evaluations.is_open(version)

    def owed_by(self, worker: int) -> m.Evaluate | None:
        """Return what a worker is to evaluate next, if anything."""
        portion = self._evaluations.next_for(worker)
        if portion is None:
            return None
        version, part = portion.version, portion.part
        samples = part == 0 and version in self._sampling
        if samples:
            self._sampling[version] = ""  # of a worker that is gone there may be some
        return m.Evaluate(worker, version, part, portion.parts, samples)

    def sampled(self, message: m.Sampled) -> None:
        """Take a part of a text that a version makes."""
        if message.version in self._sampling:
            self._sampling[message.version] += message.text

    def report(self, message: m.Evaluated) -> None:
        """Take a worker's report; it counts with :meth:`count`."""
        self._reported[message.worker] = message

    def count(self, worker: int) -> None:
        """Let a worker's report count, now that it asks for weights again.

        Not sooner: who evaluates what a lost worker owed depends on it, also in a replay.
        """
        message = self._reported.pop(worker, None)
        if message is None:
            return
        if message.weights_sha256:
            self._recorder.weights_sha256 = message.weights_sha256
        total = self._evaluations.report(worker, message.version, message.part, message.sums)
        if total is not None:
            self._close(message.version, total)

    def count_but(self, versions: Collection[int]) -> None:
        """Let all reports count, but those of these versions."""
        for worker, message in list(self._reported.items()):
            if message.version not in versions:
                self.count(worker)

    def leave(self, worker: int, others: Iterable[int]) -> None:
        """A worker computes no more: others do its part."""
        self._reported.pop(worker, None)
        self._evaluations.leave(worker, others)

    def _close(self, version: int, total: Sums) -> None:
        snapshot = self._serving.giving.snapshots.get(version)
        assert snapshot is not None, "a snapshot is held until its evaluation is over"
        best = False
        if total.units:
            best = self.best.better(total.loss / total.units, version)
            self._recorder.evaluated(total, version, snapshot.units, best=best)
        if text := self._sampling.pop(version, ""):
            at = {self._job.units_name: snapshot.units, "version": version}
            said = f"sample:\n{harmless(text)}\n"
            self._recorder.happened("sample", {**at, "text": text}, said)
        if best or version == self.last:
            self._copies.save(version, best=best)
        else:
            self._copies.let_go(version)
        self._closed(version)
