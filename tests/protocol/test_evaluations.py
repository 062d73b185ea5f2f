"""Evaluations: every part is reported once, by whoever is left, and added up in order."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from psdp.protocol import Evaluations, Portion, Sums


def part_sums(version: int, part: int) -> Sums:
    """Something that differs for every part and whose floats depend on the order of a sum."""
    return Sums(loss=0.1 * (part + 1) + version / 3, correct=part, units=10**part)


def total(version: int, parts: int) -> Sums:
    results = [part_sums(version, part) for part in range(parts)]
    return Sums(
        loss=sum(result.loss for result in results),
        correct=sum(result.correct for result in results),
        units=sum(result.units for result in results),
    )


def test_each_worker_gets_one_part_in_rank_order() -> None:
    evaluations = Evaluations()
    evaluations.open(4, [3, 1, 2])
    assert [evaluations.next_for(worker) for worker in (1, 2, 3, 4)] == [
        Portion(4, 0, 3),
        Portion(4, 1, 3),
        Portion(4, 2, 3),
        None,
    ]


def test_the_last_report_returns_the_sum_in_the_order_of_the_parts() -> None:
    evaluations = Evaluations()
    evaluations.open(4, [1, 2, 3])
    assert evaluations.report(3, 4, 2, part_sums(4, 2)) is None
    assert evaluations.report(1, 4, 0, part_sums(4, 0)) is None
    assert evaluations.is_open(4)
    assert evaluations.report(2, 4, 1, part_sums(4, 1)) == total(4, 3)
    assert not evaluations.is_open(4)
    assert [evaluations.next_for(worker) for worker in (1, 2, 3)] == [None] * 3


def test_a_worker_does_its_oldest_part_first() -> None:
    evaluations = Evaluations()
    evaluations.open(4, [1, 2])
    evaluations.open(8, [1, 2])
    assert evaluations.next_for(1) == Portion(4, 0, 2)
    evaluations.report(1, 4, 0, part_sums(4, 0))
    assert evaluations.next_for(1) == Portion(8, 0, 2)


def test_the_parts_of_the_dead_go_to_the_least_loaded() -> None:
    evaluations = Evaluations()
    evaluations.open(4, [1, 2, 3])
    evaluations.report(2, 4, 1, part_sums(4, 1))
    evaluations.leave(3, [1, 2])
    assert evaluations.next_for(2) == Portion(4, 2, 3)
    assert evaluations.next_for(1) == Portion(4, 0, 3)


def test_an_heir_does_an_inherited_older_part_before_its_own() -> None:
    evaluations = Evaluations()
    evaluations.open(4, [1, 2])
    evaluations.open(8, [1, 2])
    evaluations.report(1, 4, 0, part_sums(4, 0))
    evaluations.leave(2, [1])
    assert evaluations.next_for(1) == Portion(4, 1, 2)


def test_an_heir_may_be_one_that_had_no_part_of_its_own() -> None:
    evaluations = Evaluations()
    evaluations.open(4, [1])
    evaluations.leave(1, [2])
    assert evaluations.next_for(2) == Portion(4, 0, 1)


@pytest.mark.parametrize(("worker", "version", "part"), [(1, 4, 1), (2, 8, 0), (3, 4, 0)])
def test_a_report_that_was_not_asked_for_changes_nothing(
    worker: int, version: int, part: int
) -> None:
    evaluations = Evaluations()
    evaluations.open(4, [1, 2])
    assert evaluations.report(worker, version, part, part_sums(0, 9)) is None
    evaluations.report(1, 4, 0, part_sums(4, 0))
    assert evaluations.report(2, 4, 1, part_sums(4, 1)) == total(4, 2)


def test_a_second_report_of_a_part_changes_nothing() -> None:
    evaluations = Evaluations()
    evaluations.open(4, [1, 2])
    evaluations.report(1, 4, 0, part_sums(4, 0))
    assert evaluations.report(1, 4, 0, part_sums(0, 9)) is None
    assert evaluations.report(2, 4, 1, part_sums(4, 1)) == total(4, 2)


def test_when_the_last_worker_leaves_its_parts_are_dropped() -> None:
    evaluations = Evaluations()
    evaluations.open(4, [1])
    evaluations.leave(1, [])
    assert evaluations.is_open(4)
    assert evaluations.next_for(1) is None


@settings(deadline=None, max_examples=200)
@given(st.integers(1, 6), st.lists(st.integers(0, 999), max_size=60))
def test_every_part_is_reported_exactly_once_under_any_deaths(
    workers: int, choices: list[int]
) -> None:
    evaluations = Evaluations()
    live = list(range(1, workers + 1))
    parts: dict[int, int] = {}
    reported: list[tuple[int, int]] = []
    totals: dict[int, Sums] = {}

    def report(worker: int) -> None:
        portion = evaluations.next_for(worker)
        if portion is not None:
            reported.append((portion.version, portion.part))
            sums = part_sums(portion.version, portion.part)
            done = evaluations.report(worker, portion.version, portion.part, sums)
            if done is not None:
                totals[portion.version] = done

    for choice in choices:
        kind, pick = choice % 4, choice // 4
        worker = live[pick % len(live)]
        if kind == 0:
            parts[len(parts)] = len(live)
            evaluations.open(len(parts) - 1, live)
        elif kind == 1 and len(live) > 1:
            live.remove(worker)
            evaluations.leave(worker, live)
        else:
            report(worker)
    for worker in live:
        while evaluations.next_for(worker) is not None:
            report(worker)
    assert sorted(reported) == [(v, part) for v, count in parts.items() for part in range(count)]
    assert totals == {version: total(version, count) for version, count in parts.items()}
