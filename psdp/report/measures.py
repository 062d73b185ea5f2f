"""Numbers that are drawn from one run's records, and their mean and interval over several runs."""

from __future__ import annotations

import math
import statistics
from collections import defaultdict
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

from psdp.intervals import Difference, difference, half_width, widened
from psdp.report.points import Evaluation


@dataclass(frozen=True)
class Stat:
    """One number of several runs, of which those of one seed are averaged first: running a seed
    again says nothing of others.

    Attributes:
        half: half the width of the 95 % interval of the mean; None of a single seed, which has
            none.
        n: how many seeds.
        by_seed: of each seed.
        error: by how much the mean is off whatever the seeds, root mean square; part of ``half``.
        error_of: whose error that is: means that have it in common are off alike.
    """

    mean: float
    half: float | None
    n: int
    by_seed: Mapping[int, float]
    error: float = 0.0
    error_of: Hashable = None

    @classmethod
    def of(cls, values: Iterable[tuple[int, float | None]]) -> Stat | None:
        """Return that of the values that are there, each with its seed; None if there is none."""
        known: defaultdict[int, list[float]] = defaultdict(list)
        for seed, value in values:
            if value is not None:
                known[seed].append(value)
        if not known:
            return None
        by_seed = {seed: statistics.fmean(own) for seed, own in known.items()}
        means = list(by_seed.values())
        half = half_width(means) if len(means) > 1 else None
        return cls(statistics.fmean(means), half, len(means), by_seed)

    def with_error(self, error: float, of: Hashable = None) -> Stat:
        """Return the same where it is off by so much besides, root mean square."""
        if not error:
            return self
        half = None if self.half is None else widened(self.half, error)
        return replace(self, half=half, error=error, error_of=of)

    def minus(self, other: Stat) -> Difference:
        """Return by how much this is more."""
        error = math.hypot(self.error, other.error)
        if self.error_of is not None and self.error_of == other.error_of:
            error = abs(self.error - other.error)
        return difference(self.by_seed, other.by_seed, error)

    def apart(self, other: Stat, floor: float = 0.0) -> bool:
        """Say whether two means differ: the interval of their difference holds no zero, and it is
        more than ``floor`` of the larger."""
        found = self.minus(other)
        return found.is_one and abs(found.mean) > floor * max(abs(self.mean), abs(other.mean))


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


def loss_after(evaluations: Sequence[Evaluation], time_s: float) -> float | None:
    """Return the validation loss after so many seconds, interpolated between evaluations; after the
    last one, that of the last, as a run that is over has it still; None before the first."""
    if not evaluations or time_s < evaluations[0].time_s:
        return None
    for before, after in pairwise(evaluations):
        if time_s < after.time_s:
            share = (time_s - before.time_s) / (after.time_s - before.time_s)
            return before.loss + share * (after.loss - before.loss)
    return evaluations[-1].loss


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
