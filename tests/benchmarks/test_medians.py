"""Medians and their bootstrap intervals."""

from __future__ import annotations

import numpy as np
from intervals import median


def test_measurements_that_agree_leave_no_doubt() -> None:
    of = median([1.25] * 7)
    assert (of.value, of.low, of.high) == (1.25, 1.25, 1.25)


def test_a_single_measurement_is_its_own_median() -> None:
    assert str(median([1.5])) == "1.500 (1.500 .. 1.500)"


def test_the_interval_holds_the_median_and_stays_within_the_measurements() -> None:
    of = median([3.0, 1.0, 2.0, 9.0, 2.5])
    assert of.value == 2.5
    assert 1.0 <= of.low < of.value < of.high <= 9.0


def test_one_outlier_moves_neither_the_median_nor_far_ends() -> None:
    calm = median([1.0, 1.1, 1.2, 1.3, 1.4] * 6)
    shaken = median([1.0, 1.1, 1.2, 1.3, 1.4] * 6 + [50.0])
    assert abs(shaken.value - calm.value) <= 0.1
    assert shaken.high <= 1.4


def test_95_of_100_intervals_hold_the_true_median() -> None:
    rng = np.random.default_rng(11)
    intervals = [median(rng.normal(2.0, 1.0, 40)) for _ in range(100)]
    assert 90 <= sum(of.low <= 2.0 <= of.high for of in intervals) <= 100


def test_the_same_measurements_give_the_same_interval() -> None:
    assert median([1.0, 4.0, 2.0]) == median([1.0, 4.0, 2.0])
