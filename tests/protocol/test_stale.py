"""Stale-bounded and asynchronous, event by event."""

from __future__ import annotations

import pytest
from answers import answer

from psdp.errors import ProtocolError
from psdp.protocol import (
    Apply,
    Asynchronous,
    Drained,
    Effect,
    Event,
    Leave,
    Move,
    Policy,
    Pull,
    Push,
    StaleBounded,
    Stop,
    Work,
)


def push(worker: int, clock: int, version: int) -> Push:
    """A gradient of eight tokens in the slot of its worker's number."""
    return Push(worker, worker, Work(clock, version, units=8, batch=clock))


def applied(slot: int, lag: int, version: int) -> Apply:
    return Apply((slot,), (1.0,), 8, (lag,), version)


def table(policy: Policy, *rows: tuple[Event, list[Effect]]) -> None:
    for number, (event, effects) in enumerate(rows):
        assert policy.handle(event) == effects, f"row {number}: {event}"


def test_fast_worker_waits_at_the_bound_until_the_slow_one_pushes() -> None:
    policy = StaleBounded([1, 2], 6, staleness=1)
    table(
        policy,
        (Pull(1), [answer(1, 0, 0)]),
        (Pull(2), [answer(2, 0, 0)]),
        (push(1, 0, 0), [applied(1, 0, 1), answer(1, 1, 1)]),
        (push(1, 1, 1), [applied(1, 0, 2)]),
        (push(2, 0, 0), [applied(2, 2, 3), answer(2, 3, 1), answer(1, 3, 2)]),
        (push(2, 1, 3), [applied(2, 0, 4), answer(2, 4, 2)]),
        (push(1, 2, 3), [applied(1, 1, 5)]),
        (push(2, 2, 4), [applied(2, 1, 6), Drained(6)]),
    )
    assert policy.clock_gaps == {0: 4, 1: 2}


def test_an_update_tells_how_many_of_its_units_count() -> None:
    work = Work(0, 0, units=8, batch=0, counted=5)
    (apply, _) = Asynchronous([1, 2], 4).handle(Push(1, 1, work))
    assert apply == Apply((1,), (1.0,), 8, (0,), 1, counted=5)


def test_staleness_0_is_lock_step() -> None:
    table(
        StaleBounded([1, 2], 4, staleness=0),
        (push(1, 0, 0), [applied(1, 0, 1)]),
        (push(2, 0, 0), [applied(2, 1, 2), answer(1, 2, 1), answer(2, 2, 1)]),
        (push(2, 1, 2), [applied(2, 0, 3)]),
        (push(1, 1, 2), [applied(1, 1, 4), Drained(4)]),
    )


def test_a_dead_straggler_does_not_hold_the_others() -> None:
    table(
        StaleBounded([1, 2, 3], 9, staleness=0),
        (push(1, 0, 0), [applied(1, 0, 1)]),
        (push(2, 0, 0), [applied(2, 1, 2)]),
        (Leave(3), [answer(1, 2, 1), answer(2, 2, 1)]),
    )


def test_the_grant_of_a_dead_worker_is_redone_by_one_that_already_waited_for_the_end() -> None:
    table(
        Asynchronous([1, 2], 2),
        (push(1, 0, 0), [applied(1, 0, 1)]),
        (Leave(2), [answer(1, 1, 1)]),
        (push(1, 1, 1), [applied(1, 0, 2), Drained(2)]),
    )


def test_async_answers_every_push_at_once_however_far_ahead() -> None:
    policy = Asynchronous([1, 2], 12)
    for clock in range(10):
        assert policy.handle(push(1, clock, clock)) == [
            applied(1, 0, clock + 1),
            answer(1, clock + 1, clock + 1),
        ]
    table(
        policy,
        (push(1, 10, 10), [applied(1, 0, 11)]),
        (push(2, 0, 0), [applied(2, 11, 12), Drained(12)]),
    )
    assert max(policy.clock_gaps) == 10


def test_a_late_worker_joins_at_the_clock_of_the_slowest() -> None:
    policy = StaleBounded([1, 2], 20, staleness=1)
    for version, (worker, clock) in enumerate([(1, 0), (2, 0), (1, 1), (2, 1), (1, 2)]):
        policy.handle(push(worker, clock, version))
    assert policy.clocks == {1: 3, 2: 2}
    assert policy.handle(Pull(3)) == [answer(3, 5, 2)]
    assert policy.clocks == {1: 3, 2: 2, 3: 2}


def test_a_pull_of_a_worker_that_was_answered_is_answered_again_with_newer_weights() -> None:
    table(
        Asynchronous([1, 2], 10),
        (Pull(1), [answer(1, 0, 0)]),
        (push(2, 0, 0), [applied(2, 0, 1), answer(2, 1, 1)]),
        (Pull(1), [answer(1, 1, 0)]),
        (push(1, 0, 1), [applied(1, 0, 2), answer(1, 2, 1)]),
    )


def test_a_budget_smaller_than_the_workers_grants_that_many() -> None:
    table(
        Asynchronous([1, 2, 3], 2),
        (Pull(3), []),
        (Pull(1), [answer(1, 0, 0)]),
        (Pull(2), [answer(2, 0, 0)]),
        (push(2, 0, 0), [applied(2, 0, 1)]),
        (push(1, 0, 0), [applied(1, 1, 2), Drained(2)]),
    )


def test_a_spent_budget_is_drained_at_the_first_pull() -> None:
    table(
        Asynchronous([1, 2], 0, version=8, clocks={1: 5, 2: 3}),
        (Pull(2), [Drained(8)]),
        (Pull(1), []),
        (Leave(1), []),
        (Leave(2), []),
    )


def test_stop_hands_out_nothing_after_a_later_leave_either() -> None:
    table(
        StaleBounded([1, 2], 100, staleness=0),
        (push(1, 0, 0), [applied(1, 0, 1)]),
        (Stop(), []),
        (Leave(2), [Drained(1)]),
        (Pull(1), []),
    )


def test_stop_lets_what_is_out_come_home() -> None:
    table(
        Asynchronous([1, 2], 100),
        (Stop(), []),
        (Pull(2), [answer(2, 0, 0)]),
        (push(2, 0, 0), [applied(2, 0, 1)]),
        (push(1, 0, 0), [applied(1, 1, 2), Drained(2)]),
    )


def test_a_stop_between_runs_of_work_is_drained_at_once() -> None:
    table(
        Asynchronous([1], 1),
        (push(1, 0, 0), [applied(1, 0, 1), Drained(1)]),
        (Stop(), []),
    )


def test_after_a_resume_a_worker_that_is_too_far_ahead_waits() -> None:
    table(
        StaleBounded([1, 2], 10, staleness=1, version=7, clocks={1: 5, 2: 2}),
        (Pull(1), []),
        (Pull(2), [answer(2, 7, 2)]),
        (push(2, 2, 7), [applied(2, 0, 8), answer(2, 8, 3)]),
        (push(2, 3, 8), [applied(2, 0, 9), answer(2, 9, 4), answer(1, 9, 5)]),
    )


def test_clocks_of_ranks_that_are_not_expected_are_forgotten() -> None:
    policy = StaleBounded([1, 2], 10, staleness=0, clocks={1: 4, 2: 4, 9: 0})
    assert policy.clocks == {1: 4, 2: 4}


@pytest.mark.parametrize(
    ("event", "text"),
    [
        (push(7, 0, 0), "worker 7 pushed gradient 0 without having been answered"),
        (
            push(1, 5, 0),
            "worker 1 pushed gradient 5 of batch 5 on version 0; expected gradient 0",
        ),
        (
            push(2, 0, 3),
            "worker 2 pushed gradient 0 of batch 0 on version 3; expected gradient 0",
        ),
    ],
)
def test_a_push_that_was_not_asked_for_is_refused(event: Push, text: str) -> None:
    with pytest.raises(ProtocolError, match=text):
        Asynchronous([1, 2], 4).handle(event)


def test_a_push_while_waiting_at_the_bound_is_refused() -> None:
    policy = StaleBounded([1, 2], 10, staleness=0)
    policy.handle(push(1, 0, 0))
    with pytest.raises(ProtocolError, match="worker 1 pushed gradient 1 without having been"):
        policy.handle(push(1, 1, 1))


def test_a_refused_push_changes_nothing() -> None:
    policy = Asynchronous([1, 2], 4)
    with pytest.raises(ProtocolError):
        policy.handle(push(1, 1, 0))
    assert policy.handle(push(1, 0, 0)) == [applied(1, 0, 1), answer(1, 1, 1)]


def test_what_a_lost_rank_had_in_hand_is_begun_again_on_the_present_version() -> None:
    table(
        StaleBounded([1, 2], 6, staleness=4),
        (Pull(1), [answer(1, 0, 0)]),
        (Pull(2), [answer(2, 0, 0)]),
        (push(1, 0, 0), [applied(1, 0, 1), answer(1, 1, 1)]),
        (Move(2, 1), [answer(2, 1, 0)]),
        (push(2, 0, 1), [applied(2, 0, 2), answer(2, 2, 1)]),
    )


def test_a_move_of_a_worker_that_waits_changes_nothing() -> None:
    policy = StaleBounded([1, 2], 6, staleness=0)
    table(
        policy,
        (Pull(1), [answer(1, 0, 0)]),
        (push(1, 0, 0), [applied(1, 0, 1)]),
        (Move(1, 2), []),
        (push(2, 0, 0), [applied(2, 1, 2), answer(1, 2, 1), answer(2, 2, 1)]),
    )


@pytest.mark.parametrize(("late", "rate"), [(0, 1.0), (1, 1.0), (2, 1 / 2), (5, 1 / 5)])
def test_a_late_gradient_moves_the_weights_by_the_inverse_of_its_lag(
    late: int, rate: float
) -> None:
    for inverse in (True, False):
        policy = Asynchronous([1, 2], inverse_lag=inverse)
        policy.handle(Pull(2))
        policy.handle(Pull(1))
        for clock in range(late):
            policy.handle(push(1, clock, clock))
        (apply, *_) = policy.handle(push(2, 0, 0))
        expected = rate if inverse else 1.0
        assert apply == Apply((2,), (1.0,), 8, (late,), late + 1, expected)


def test_a_worker_whose_rank_is_lost_before_it_asks_waits_like_any_other() -> None:
    table(
        StaleBounded([1, 2], 4, staleness=1, version=2, clocks={1: 2}),
        (Move(1, 3), []),
        (Pull(2), [answer(2, 2, 0)]),
        (push(2, 0, 2), [applied(2, 0, 3), answer(2, 3, 1), answer(1, 3, 2)]),
    )
