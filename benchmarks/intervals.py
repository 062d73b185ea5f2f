"""Medians of repeated measurements, and how far they can be trusted."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

RESAMPLES = 10_000


@dataclass(frozen=True)
class Median:
    """A median and the interval that holds 95 % of the medians of resampled measurements."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.value:.3f} ({self.low:.3f} .. {self.high:.3f})"


def median(measured: npt.ArrayLike, seed: int = 0) -> Median:
    """Return the median of one or more measurements (N,) with its bootstrap interval (Efron 1979):
    N of them are drawn with replacement, again and again."""
    values = np.asarray(measured)
    resampled = np.random.default_rng(seed).choice(values, (RESAMPLES, values.size))
    low, high = np.quantile(np.median(resampled, axis=1), [0.025, 0.975])
    return Median(float(np.median(values)), float(low), float(high))
