"""Intervals of means and differences, against tables, integrals and numbers worked out by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest

from psdp.intervals import LEVEL, difference, half_width, t_quantile, widened


@pytest.mark.parametrize(
    ("freedom", "quantile"),
    [(1, 12.70620), (2, 4.302653), (3, 3.182446), (4, 2.776445), (9, 2.262157), (30, 2.042272)],
)
def test_quantiles_are_those_of_the_tables(freedom: int, quantile: float) -> None:
    assert t_quantile(freedom) == pytest.approx(quantile, rel=1e-6)


@pytest.mark.parametrize("freedom", [1, 2, 5, 8, 17, 200])
@pytest.mark.parametrize("level", [0.5, LEVEL, 0.99])
def test_so_much_of_the_density_is_within_a_quantile(freedom: int, level: float) -> None:
    edge = t_quantile(freedom, level)
    t = np.linspace(-edge, edge, 20_001)
    log = math.lgamma((freedom + 1) / 2) - math.lgamma(freedom / 2)
    density = math.exp(log) / math.sqrt(freedom * math.pi)
    density = density * (1 + t**2 / freedom) ** (-(freedom + 1) / 2)
    assert np.trapezoid(density, t) == pytest.approx(level, abs=1e-6)


def test_so_many_intervals_hold_the_mean_that_they_are_of() -> None:
    samples = np.random.default_rng(0).normal(5.0, 2.0, (4000, 3))
    held = [abs(np.mean(own) - 5.0) <= half_width(list(own)) for own in samples]
    assert np.mean(held) == pytest.approx(LEVEL, abs=0.01)


def test_a_difference_is_paired_by_the_seeds_that_both_have() -> None:
    found = difference({1: 3.0, 2: 5.0, 3: 7.0, 9: 100.0}, {3: 6.1, 2: 3.9, 1: 2.0, 4: 0.0})
    assert found.by_seed == pytest.approx({1: 1.0, 2: 1.1, 3: 0.9})
    assert found.mean == pytest.approx(1.0)
    assert found.half == pytest.approx(4.302653 * 0.1 / math.sqrt(3))
    assert found.is_one
    assert (found.low, found.high) == (found.mean - found.half, found.mean + found.half)


def test_without_shared_seeds_both_variances_count() -> None:
    ones, others = {1: 3.0, 2: 5.0, 3: 7.0}, {4: 2.0, 5: 2.2}
    found = difference(ones, others)
    assert (found.by_seed, found.is_one) == ({}, False)
    assert found.mean == pytest.approx(2.9)
    a, b = 4 / 3, 0.02 / 2
    assert (a + b) ** 2 / (a**2 / 2 + b**2 / 1) == pytest.approx(2.03, abs=0.01)
    assert found.half == pytest.approx(4.302653 * math.sqrt(a + b))


def test_of_single_values_nothing_is_known() -> None:
    assert half_width([3.0]) == math.inf
    found = difference({1: 3.0}, {1: 100.0})
    assert (found.mean, found.half, found.is_one) == (-97.0, math.inf, False)
    assert not difference({1: 3.0, 2: 4.0, 3: 5.0}, {7: 100.0}).is_one


def test_equal_values_leave_no_doubt() -> None:
    assert difference({1: 3.0, 2: 4.0}, {1: 2.0, 2: 3.0}).half == 0.0
    assert difference({1: 3.0, 2: 3.0}, {3: 2.0, 4: 2.0}).is_one
    assert not difference({1: 3.0, 2: 3.0}, {1: 3.0, 2: 3.0}).is_one


def test_an_error_that_seeds_do_not_show_widens_what_they_say() -> None:
    held = np.random.default_rng(0).normal(5.0, 2.0, 100_000)
    assert np.mean(abs(held - 5.0) <= widened(0.0, 2.0)) == pytest.approx(LEVEL, abs=0.005)
    assert widened(3.0, 4.0 / 1.959964) == pytest.approx(5.0)
    assert widened(3.0, 0.0) == 3.0
    assert widened(0.0, 1.0, 0.9) == pytest.approx(1.644854)
    sure = {1: 3.0, 2: 4.0}, {1: 2.0, 2: 3.0}
    assert difference(*sure, 0.5).is_one
    assert not difference(*sure, 0.6).is_one
    assert difference({1: 3.0}, {2: 2.0}, 0.1).half == math.inf
