"""What came of a simulated job."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from psdp.protocol import Choice
from psdp.records.metrics import Histogram
from psdp.simulate.worker import State

WARM_UP = 0.2
"""The part of a run's gradients after which its throughput is measured."""


@dataclass(frozen=True)
class Chosen:
    """When modes were compared, at which version, and what was chosen."""

    time_s: float
    version: int
    choice: Choice

    def record(self) -> dict[str, Any]:
        """Return everything for JSON."""
        return {"time_s": self.time_s, "version": self.version, **self.choice.record()}


@dataclass
class Course:
    """What happened in a simulated job.

    Attributes:
        updates: (virtual seconds, gradients so far) of each update of rank 0.
        spent_s: seconds of all workers by what they went into.
        pushed_bytes, pulled_bytes: of all workers.
        drained: whether the budget was spent before the last worker was gone for good.
        changes: those of mode.
        stayed: the last time that it was chosen to stay in the last mode, if it was.
    """

    updates: list[tuple[float, int]] = field(default_factory=list)
    lags: Histogram = field(default_factory=Histogram)
    spent_s: dict[State, float] = field(default_factory=lambda: dict.fromkeys(State, 0.0))
    max_clock_gap: int = 0
    pushed_bytes: int = 0
    pulled_bytes: int = 0
    dropped: int = 0
    failures: int = 0
    virtual_s: float = 0.0
    drained: bool = False
    changes: list[Chosen] = field(default_factory=list)
    stayed: Chosen | None = None

    @property
    def gradients(self) -> int:
        return self.updates[-1][1] if self.updates else 0

    def gradients_per_s(self) -> float:
        """Return the throughput after the warm-up; 0 where there is none."""
        return rate(self.updates)

    def share(self, state: State) -> float:
        """Return the part of the workers' time that went into something."""
        total = sum(self.spent_s.values())
        return self.spent_s[state] / total if total else 0.0


def rate(updates: list[tuple[float, int]]) -> float:
    """Return gradients/s after the warm-up, of the times (seconds) at which so many were done; of
    all of it where nothing is left then, and 0 where no time passed."""
    if not updates:
        return 0.0
    end_s, end = updates[-1]
    start_s, start = next(update for update in updates if update[1] >= WARM_UP * end)
    if start == end:
        start_s, start = 0.0, 0
    return (end - start) / (end_s - start_s) if end_s > start_s else 0.0
