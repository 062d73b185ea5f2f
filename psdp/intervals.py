"""How far means of a few runs can be trusted: Student's intervals of means and of differences.

Pure, and of numbers alone. Where runs share seeds, a difference is the mean of those by seed: what
a seed makes easy or hard for both is no part of it (Student 1908). What is off by more than seeds
say has that added to its interval.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from statistics import NormalDist

LEVEL = 0.95
"""How many of such intervals hold what they are of."""


@dataclass(frozen=True)
class Difference:
    """A mean minus another.

    Attributes:
        half: of the interval's width; infinite where there are too few numbers for one.
        by_seed: the differences by seed; empty where too few seeds are shared.
    """

    mean: float
    half: float
    by_seed: Mapping[int, float]

    @property
    def low(self) -> float:
        return self.mean - self.half

    @property
    def high(self) -> float:
        return self.mean + self.half

    @property
    def is_one(self) -> bool:
        """Whether the interval holds no zero."""
        return abs(self.mean) > self.half


def half_width(values: Sequence[float]) -> float:
    """Return half the width of the interval of a mean; infinite of a single value."""
    if len(values) < 2:
        return math.inf
    return t_quantile(len(values) - 1) * statistics.stdev(values) / math.sqrt(len(values))


def widened(half: float, error: float, level: float = LEVEL) -> float:
    """Return half the width of an interval whose mean is off besides, by an error of its own of
    that root mean square."""
    return math.hypot(half, NormalDist().inv_cdf((1 + level) / 2) * error)


def difference(
    ones: Mapping[int, float], others: Mapping[int, float], error: float = 0.0
) -> Difference:
    """Return how much more ``ones`` are than ``others``, both by seed: paired where they share at
    least two seeds, of these seeds alone; otherwise as two samples of unequal variance (Welch
    1947). ``error``: by how much that is off besides, root mean square."""
    by_seed = {seed: ones[seed] - others[seed] for seed in sorted(ones.keys() & others.keys())}
    if len(by_seed) > 1:
        values = list(by_seed.values())
        return Difference(statistics.fmean(values), widened(half_width(values), error), by_seed)
    samples = list(ones.values()), list(others.values())
    mean = statistics.fmean(samples[0]) - statistics.fmean(samples[1])
    return Difference(mean, widened(_welch(*samples), error), {})


def _welch(one: Sequence[float], other: Sequence[float]) -> float:
    """Return half the width of the interval of a difference of two means."""
    if min(len(one), len(other)) < 2:
        return math.inf
    a, b = (statistics.variance(values) / len(values) for values in (one, other))
    if a + b == 0:
        return 0.0
    freedom = (a + b) ** 2 / (a**2 / (len(one) - 1) + b**2 / (len(other) - 1))
    return t_quantile(int(freedom + 1e-9)) * math.sqrt(a + b)


@lru_cache
def t_quantile(freedom: int, level: float = LEVEL) -> float:
    """Return how far from 0 the middle ``level`` of Student's t distribution reaches."""
    low, high = 0.0, math.pi / 2
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (low, middle) if _inside(middle, freedom) > level else (middle, high)
    return math.sqrt(freedom) * math.tan(low)


def _inside(angle: float, freedom: int) -> float:
    """Return the share of Student's t within ``sqrt(freedom) tan(angle)`` of 0 (Abramowitz and
    Stegun 1964, 26.7.3 and 26.7.4)."""
    odd, cos = freedom % 2, math.cos(angle)
    term, total = (cos if odd else 1.0), 0.0
    for power in range(2 + odd, freedom + 1, 2):
        total += term
        term *= cos**2 * (power - 1) / power
    total *= math.sin(angle)
    return 2 / math.pi * (angle + total) if odd else total
