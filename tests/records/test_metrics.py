"""What is measured: sums over updates, the best loss, and records that JSON can hold."""

from __future__ import annotations

import json
import math

import pytest

from psdp.protocol import Apply
from psdp.records.metrics import Best, Histogram, Interval, StepTimes, finite, perplexity


def test_lags_are_counted() -> None:
    lags = Histogram()
    lags.add((0, 0, 2))
    lags.add((10,))
    assert lags.mean() == 3.0
    assert lags.record() == {"mean": 3.0, "max": 10, "histogram": {"0": 2, "2": 1, "10": 1}}
    assert list(lags.record()["histogram"]) == ["0", "2", "10"], "in the order of the numbers"


def test_no_lags_are_no_error() -> None:
    assert Histogram().record() == {"mean": 0.0, "max": 0, "histogram": {}}


def applied(units: int, lags: tuple[int, ...], counted: int = 0) -> Apply:
    return Apply((0,), (1.0,), units, lags, version=1, counted=counted)


def test_an_interval_averages_its_updates() -> None:
    interval = Interval(since_s=100.0)
    interval.add(applied(500, lags=(0, 1)), loss=2.0)
    interval.add(applied(1500, lags=(2,)), loss=4.0)
    assert (interval.units, interval.updates, interval.loss) == (2000, 2, 3.5), "by tokens"
    assert interval.units_per_s(now_s=104.0) == 500.0
    assert interval.lags.mean() == 1.0


def test_the_loss_of_an_interval_is_that_of_the_units_that_count() -> None:
    interval = Interval(since_s=0.0)
    interval.add(applied(500, lags=(0,), counted=100), loss=2.0)
    interval.add(applied(500, lags=(0,), counted=300), loss=4.0)
    assert (interval.units, interval.loss) == (1000, 3.5)


def test_steps_are_timed_of_each_worker_and_of_each_round_but_for_the_first() -> None:
    times = StepTimes()
    for one, two in [(90.0, 80.0), (1.0, 3.0), (2.0, 1.0)]:
        times.add({1: (one, one / 2), 2: (two, 0.75)})
    times.add({1: (6.0, 3.0)})
    assert times.record() == {
        "workers": {
            "1": {
                "n": 3,
                "mean_s": 3.0,
                "std_s": pytest.approx(7**0.5),
                "own_s": 1.5,
                "own_std_s": pytest.approx(1.75**0.5),
            },
            "2": {
                "n": 2,
                "mean_s": 2.0,
                "std_s": pytest.approx(2**0.5),
                "own_s": 0.75,
                "own_std_s": 0.0,
            },
        },
        "rounds": {"n": 2, "mean_s": 1.75, "slowest_s": 2.5, "own_s": 0.75, "slowest_own_s": 0.875},
    }


def test_steps_that_come_one_by_one_have_no_rounds() -> None:
    times = StepTimes()
    for worker in (1, 2, 1, 2):
        times.add({worker: (1.0, 1.0)})
    assert times.record()["rounds"] is None
    assert StepTimes().record() == {"workers": {}, "rounds": None}


def test_two_looks_at_a_coarse_clock_are_no_division_by_zero() -> None:
    interval = Interval(since_s=5.0)
    interval.add(applied(10, lags=(0,)), loss=1.0)
    assert math.isfinite(interval.units_per_s(now_s=5.0))


def test_intervals_do_not_share_their_lags() -> None:
    Interval(0.0).add(applied(1, lags=(7,)), loss=1.0)
    assert Interval(0.0).lags.record()["histogram"] == {}


def test_the_best_loss_is_the_lowest_and_the_others_are_counted_since() -> None:
    best = Best()
    losses = [(10, 3.0), (20, 2.0), (30, 2.0), (40, math.nan), (50, 2.5), (60, 1.0)]
    seen = [(best.better(loss, version), best.evaluations_since) for version, loss in losses]
    assert seen == [(True, 0), (True, 0), (False, 1), (False, 2), (False, 3), (True, 0)]
    assert best == Best(1.0, 0, 60, 60)


@pytest.mark.parametrize("best", [Best(), Best(2.5, 3, 40, 10)])
def test_the_best_survives_a_checkpoint(best: Best) -> None:
    record = json.loads(json.dumps(best.record(), allow_nan=False))
    assert Best.from_record(record) == best


@pytest.mark.parametrize(
    ("value", "expected"), [(1.5, 1.5), (math.nan, None), (math.inf, None), (-math.inf, None)]
)
def test_what_json_cannot_hold_is_none(value: float, expected: float | None) -> None:
    assert finite(value) == expected


@pytest.mark.parametrize(
    ("loss", "expected"),
    [(0.0, 1.0), (math.log(256), 256.0), (800.0, None), (math.inf, None), (math.nan, None)],
)
def test_perplexity_is_exp_of_the_loss_as_far_as_floats_go(
    loss: float, expected: float | None
) -> None:
    assert perplexity(loss) == (None if expected is None else pytest.approx(expected))
