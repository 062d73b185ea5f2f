"""What is measured of a run: lags, losses, waits and bytes, and the records made of them."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass
class Histogram:
    """How many there were of each whole number: version lags of applied gradients, clock gaps."""

    counts: Counter[int] = field(default_factory=Counter)

    def add(self, numbers: Iterable[int]) -> None:
        self.counts.update(numbers)

    def mean(self) -> float:
        total = self.counts.total()
        return sum(number * n for number, n in self.counts.items()) / total if total else 0.0

    def record(self) -> dict[str, Any]:
        return {
            "mean": self.mean(),
            "max": max(self.counts, default=0),
            "histogram": {str(number): self.counts[number] for number in sorted(self.counts)},
        }


def percentile(histogram: Mapping[int, int], share: float) -> int | None:
    """Return the least number that at least this share of all does not exceed; None if there are
    none."""
    wanted, seen = share * sum(histogram.values()), 0
    for number in sorted(histogram):
        seen += histogram[number]
        if seen and seen >= wanted:
            return number
    return None


@dataclass
class Interval:
    """Updates since the last train record."""

    since_s: float
    units: int = 0
    updates: int = 0
    loss_sum: float = 0.0
    lags: Histogram = field(default_factory=Histogram)

    def add(self, units: int, loss: float, lags: tuple[int, ...]) -> None:
        self.units += units
        self.updates += 1
        self.loss_sum += units * loss
        self.lags.add(lags)

    @property
    def loss(self) -> float:
        """The mean loss, weighted by units."""
        return self.loss_sum / self.units

    def units_per_s(self, now_s: float) -> float:
        return self.units / max(now_s - self.since_s, 1e-9)


@dataclass
class Best:
    """The best validation loss so far, how many evaluations ago it was, and the version that was
    evaluated last; kept with checkpoints."""

    loss: float = math.inf
    evaluations_since: int = 0
    evaluated: int = -1

    def better(self, loss: float, version: int) -> bool:
        """Take the validation loss of a version; say whether it is the best."""
        self.evaluated = version
        if loss < self.loss:
            self.loss, self.evaluations_since = loss, 0
            return True
        self.evaluations_since += 1
        return False

    def record(self) -> dict[str, Any]:
        return {
            "val_loss": finite(self.loss),
            "evaluations_since": self.evaluations_since,
            "evaluated": self.evaluated,
        }

    @classmethod
    def from_record(cls, record: dict[str, Any]) -> Best:
        loss = record["val_loss"]
        since, evaluated = record["evaluations_since"], record["evaluated"]
        return cls(math.inf if loss is None else loss, since, evaluated)


def finite(value: float) -> float | None:
    """Return a number that JSON can hold: NaN and Inf become None."""
    return value if math.isfinite(value) else None


def perplexity(loss: float) -> float | None:
    """Return exp of a loss in nats, None where that is beyond a float."""
    return math.exp(loss) if loss < 700 else None
