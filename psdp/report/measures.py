"""Numbers that are drawn from one run's records, and their mean and spread over several runs."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise

from psdp.report.runs import Evaluation


@dataclass(frozen=True)
class Stat:
    """Mean and spread of one number over runs.

    Attributes:
        std: the sample standard deviation; None of a single run, which has no spread.
    """

    mean: float
    std: float | None
    n: int

    @classmethod
    def of(cls, values: Iterable[float | None]) -> Stat | None:
        """Return that of the values that are there; None if there is none."""
        known = [value for value in values if value is not None]
        if not known:
            return None
        std = statistics.stdev(known) if len(known) > 1 else None
        return cls(statistics.fmean(known), std, len(known))

    def apart(self, other: Stat, floor: float = 0.0) -> bool:
        """Say whether two means differ by more than their spreads together, and by more than
        ``floor`` of the larger."""
        difference = abs(self.mean - other.mean)
        spread = (self.std or 0.0) + (other.std or 0.0)
        return difference > max(spread, floor * max(abs(self.mean), abs(other.mean)))


def time_to_loss(evaluations: Sequence[Evaluation], target: float) -> float | None:
    """Return the seconds until the validation loss first was at most ``target``, interpolated
    between evaluations; None if it never was."""
    if evaluations and evaluations[0].loss <= target:
        return evaluations[0].time_s
    for before, after in pairwise(evaluations):
        if after.loss <= target:
            share = (before.loss - target) / (before.loss - after.loss)
            return before.time_s + share * (after.time_s - before.time_s)
    return None


def loss_at(evaluations: Sequence[Evaluation], tokens: int) -> float | None:
    """Return the validation loss after so many tokens, interpolated between evaluations; None
    outside of them."""
    for evaluation in evaluations:
        if evaluation.tokens == tokens:
            return evaluation.loss
    for before, after in pairwise(evaluations):
        if before.tokens < tokens < after.tokens:
            share = (tokens - before.tokens) / (after.tokens - before.tokens)
            return before.loss + share * (after.loss - before.loss)
    return None
