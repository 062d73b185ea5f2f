"""Numbers of a run, against ones worked out by hand."""

from __future__ import annotations

import math

import pytest

from psdp.records.metrics import percentile
from psdp.report.measures import Stat, loss_after, loss_at, time_to_loss
from psdp.report.points import Evaluation

CURVE = [Evaluation(0, 0, 4.0), Evaluation(10, 100, 3.0), Evaluation(20, 300, 2.0)]


def stat(*values: float) -> Stat:
    """Return that of runs with seeds from 1."""
    found = Stat.of(enumerate(values, start=1))
    assert found is not None
    return found


def test_a_mean_has_the_interval_of_student() -> None:
    found = Stat.of([(1, 2.0), (2, 4.0), (3, None), (4, 9.0)])
    assert found is not None
    assert (found.mean, found.n, found.by_seed) == (5.0, 3, {1: 2.0, 2: 4.0, 4: 9.0})
    assert found.half == pytest.approx(4.302653 * math.sqrt((9 + 1 + 16) / 2) / math.sqrt(3))


def test_one_value_has_no_interval_and_none_no_mean() -> None:
    assert stat(3.0) == Stat(3.0, None, 1, {1: 3.0})
    assert Stat.of([(1, None)]) is None


def test_a_seed_that_was_run_twice_counts_as_the_mean_of_its_runs() -> None:
    found = Stat.of([(1, 2.0), (1, 4.0), (2, 6.0)])
    assert found == stat(3.0, 6.0)
    assert Stat.of([(1, 2.0), (1, 4.0)]) == Stat(3.0, None, 1, {1: 3.0})


def test_what_a_mean_is_off_besides_is_in_its_interval_and_in_differences() -> None:
    found = stat(10.0, 10.0).with_error(0.5)
    assert (found.mean, found.error) == (10.0, 0.5)
    assert found.half == pytest.approx(1.959964 * 0.5)
    assert found.minus(stat(9.0, 9.0)).half == pytest.approx(found.half)
    both = found.minus(stat(8.0, 8.0).with_error(1.2))
    assert both.half == pytest.approx(1.959964 * 1.3)
    assert not both.is_one
    assert stat(10.0).with_error(0.5).half is None


def test_means_that_are_off_alike_differ_by_what_they_are_not_off_alike() -> None:
    one, other = stat(10.0, 10.2).with_error(0.5, "it"), stat(8.0, 8.2).with_error(0.4, "it")
    assert one.minus(other).half == pytest.approx(1.959964 * 0.1)
    assert one.minus(stat(8.0, 8.2).with_error(0.4, "that")).half > 1


@pytest.mark.parametrize(
    ("one", "other", "floor", "apart"),
    [
        (stat(10.0, 12.0, 14.0), stat(10.9, 13.0, 15.1), 0.0, True),
        (stat(10.0, 12.0, 14.0), stat(15.1, 13.0, 10.9), 0.0, False),
        (stat(10.0), stat(100.0), 0.0, False),
        (stat(10.0, 10.1), stat(10.1, 10.2), 0.0, True),
        (stat(10.0, 10.1), stat(10.1, 10.2), 0.02, False),
        (stat(10.0, 10.0), stat(10.0, 10.0), 0.0, False),
    ],
)
def test_means_are_apart_where_the_interval_of_their_difference_holds_no_zero(
    one: Stat, other: Stat, floor: float, apart: bool
) -> None:
    assert one.apart(other, floor) is apart
    assert other.apart(one, floor) is apart


@pytest.mark.parametrize(
    ("target", "seconds"),
    [(5.0, 0.0), (4.0, 0.0), (3.75, 2.5), (3.0, 10.0), (2.25, 17.5), (2.0, 20.0), (1.9, None)],
)
def test_time_to_a_loss_is_interpolated(target: float, seconds: float | None) -> None:
    assert time_to_loss(CURVE, target) == seconds


def test_the_first_time_counts_though_the_loss_rises_again() -> None:
    curve = [*CURVE, Evaluation(30, 400, 5.0), Evaluation(40, 500, 1.0)]
    assert time_to_loss(curve, 2.0) == 20.0
    assert time_to_loss(curve, 1.5) == 38.75


def test_without_evaluations_no_loss_is_reached() -> None:
    assert time_to_loss([], 3.0) is None
    assert loss_at([], 100) is None


@pytest.mark.parametrize(
    ("tokens", "loss"), [(0, 4.0), (50, 3.5), (100, 3.0), (250, 2.25), (300, 2.0), (301, None)]
)
def test_loss_at_tokens_is_interpolated_and_never_guessed(tokens: int, loss: float | None) -> None:
    assert loss_at(CURVE, tokens) == loss


@pytest.mark.parametrize(
    ("time_s", "loss"), [(0.0, 4.0), (5.0, 3.5), (15.0, 2.5), (20.0, 2.0), (99.0, 2.0)]
)
def test_loss_after_seconds_is_interpolated_and_stays_what_it_was_at_the_end(
    time_s: float, loss: float
) -> None:
    assert loss_after(CURVE, time_s) == loss


def test_before_the_first_evaluation_no_loss_is_known() -> None:
    assert loss_after(CURVE[1:], 9.0) is None
    assert loss_after([], 9.0) is None


@pytest.mark.parametrize(
    ("share", "number"), [(0.0, 0), (0.5, 0), (0.51, 1), (0.9, 1), (0.95, 7), (1.0, 7)]
)
def test_percentiles_of_a_histogram(share: float, number: int) -> None:
    assert percentile({7: 1, 0: 5, 1: 4}, share) == number


def test_a_histogram_of_nothing_has_no_percentile() -> None:
    assert percentile({}, 0.5) is None
