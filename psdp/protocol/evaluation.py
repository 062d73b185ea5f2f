"""Who evaluates what: a snapshot's validation batches are cut in parts, one for each worker.

Pure, like the policies. A worker is handed its parts with its next answers, so nobody waits for an
evaluation; the parts of a worker that leaves go to those that stay.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Portion:
    """Evaluate part ``part`` of ``parts`` on the snapshot of version ``version``."""

    version: int
    part: int
    parts: int


@dataclass(frozen=True, slots=True)
class Sums:
    """What one part adds up to, over ``units`` targets. Loss in nats."""

    loss: float
    correct: int
    units: int


class Evaluations:
    """The open evaluations, oldest first."""

    def __init__(self) -> None:
        self._portions: dict[int, list[Portion]] = {}
        self._results: dict[int, list[Sums | None]] = {}

    def open(self, version: int, workers: Iterable[int]) -> None:
        """Start an evaluation of a version by these workers (at least one)."""
        order = sorted(workers)
        assert order
        assert version not in self._results, "one evaluation a version"
        self._results[version] = [None] * len(order)
        for part, worker in enumerate(order):
            self._portions.setdefault(worker, []).append(Portion(version, part, len(order)))

    @property
    def versions(self) -> list[int]:
        """The versions of the open ones."""
        return list(self._results)

    def is_open(self, version: int) -> bool:
        return version in self._results

    def next_for(self, worker: int) -> Portion | None:
        """Return the oldest portion that a worker has not reported yet."""
        portions = self._portions.get(worker)
        return portions[0] if portions else None

    def report(self, worker: int, version: int, part: int, sums: Sums) -> Sums | None:
        """Take a part's result; return the sum over all parts, in their order, if it was the last.

        A report of something that this worker was not asked for changes nothing.
        """
        portions = self._portions.get(worker, [])
        portion = next((t for t in portions if (t.version, t.part) == (version, part)), None)
        if portion is None:
            return None
        portions.remove(portion)
        results = self._results[version]
        results[part] = sums
        done = [result for result in results if result is not None]
        if len(done) < len(results):
            return None
        del self._results[version]
        return Sums(
            loss=sum(result.loss for result in done),
            correct=sum(result.correct for result in done),
            units=sum(result.units for result in done),
        )

    def leave(self, worker: int, workers: Iterable[int]) -> None:
        """Hand the portions of a worker that is gone to those that stay, the least loaded first."""
        stay = sorted(workers)
        for portion in self._portions.pop(worker, []):
            if stay:
                heir = min(stay, key=lambda other: len(self._portions.get(other, [])))
                self._portions.setdefault(heir, []).append(portion)
                self._portions[heir].sort(key=lambda other: (other.version, other.part))
