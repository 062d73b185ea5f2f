"""Synchronous rounds, event by event."""

from __future__ import annotations

import pytest
from answers import answer

from psdp.errors import ProtocolError
from psdp.protocol import (
    Apply,
    Drained,
    Effect,
    Event,
    Leave,
    Pull,
    Push,
    Stop,
    Synchronous,
    Work,
)


def push(worker: int, clock: int, version: int, tokens: int = 8) -> Push:
    """A gradient in the slot of its worker's number."""
    return Push(worker, worker, Work(clock, version, units=tokens, batch=clock))


def table(policy: Synchronous, *rows: tuple[Event, list[Effect]]) -> None:
    for number, (event, effects) in enumerate(rows):
        assert policy.handle(event) == effects, f"row {number}: {event}"


def test_a_round_closes_with_its_last_gradient_and_answers_everyone() -> None:
    mean = Apply((1, 2), (0.5, 0.5), 16, (0, 0), 1)
    last = Apply((1, 2), (0.5, 0.5), 16, (0, 0), 2)
    table(
        Synchronous([1, 2], 4),
        (Pull(1), [answer(1, 0, 0)]),
        (Pull(2), [answer(2, 0, 0)]),
        (push(2, 0, 0), []),
        (push(1, 0, 0), [mean, answer(1, 1, 1), answer(2, 1, 1)]),
        (push(1, 1, 1), []),
        (push(2, 1, 1), [last, Drained(2)]),
    )


def test_gradients_weigh_what_they_count_and_the_mean_tells_how_much_that_is() -> None:
    policy = Synchronous([1, 2], 4)
    policy.handle(push(2, 0, 0))
    apply, *_ = policy.handle(Push(1, 1, Work(0, 0, units=8, batch=0, counted=2)))
    assert apply == Apply((1, 2), (0.2, 0.8), 16, (0, 0), 1, counted=10)


def test_a_mean_of_which_all_units_count_does_not_tell_how_many() -> None:
    policy = Synchronous([1, 2], 4)
    policy.handle(push(2, 0, 0))
    apply, *_ = policy.handle(Push(1, 1, Work(0, 0, units=8, batch=0, counted=8)))
    assert apply == Apply((1, 2), (0.5, 0.5), 16, (0, 0), 1, counted=0)


def test_gradients_are_averaged_in_rank_order_whatever_their_arrival() -> None:
    policy = Synchronous([1, 2, 3], 3)
    table(policy, (push(3, 0, 0, 30), []), (push(1, 0, 0, 10), []))
    assert policy.handle(push(2, 0, 0, 20)) == [
        Apply((1, 2, 3), (10 / 60, 20 / 60, 30 / 60), 60, (0, 0, 0), 1),
        Drained(1),
    ]


def test_a_round_waits_for_a_worker_that_has_not_even_pulled() -> None:
    table(
        Synchronous([1, 2], 2),
        (Pull(1), [answer(1, 0, 0)]),
        (push(1, 0, 0), []),
        (Pull(2), [answer(2, 0, 0)]),
        (push(2, 0, 0), [Apply((1, 2), (0.5, 0.5), 16, (0, 0), 1), Drained(1)]),
    )


def test_a_worker_that_dies_before_its_push_leaves_its_work_to_the_others() -> None:
    one = Apply((1,), (1.0,), 8, (0,), 1)
    table(
        Synchronous([1, 2], 2),
        (push(1, 0, 0), []),
        (Leave(2), [one, answer(1, 1, 1)]),
        (push(1, 1, 1), [Apply((1,), (1.0,), 8, (0,), 2), Drained(2)]),
    )


def test_a_worker_that_dies_after_its_push_still_counts_in_the_round() -> None:
    table(
        Synchronous([1, 2], 3),
        (push(1, 0, 0), []),
        (Leave(1), []),
        (push(2, 0, 0), [Apply((1, 2), (0.5, 0.5), 16, (0, 0), 1), answer(2, 1, 1)]),
        (push(2, 1, 1), [Apply((2,), (1.0,), 8, (0,), 2), Drained(2)]),
    )


def test_a_round_of_workers_that_all_died_is_still_applied() -> None:
    table(
        Synchronous([1, 2], 4),
        (push(1, 0, 0), []),
        (Leave(1), []),
        (Leave(2), [Apply((1,), (1.0,), 8, (0,), 1)]),
    )


def test_a_late_worker_joins_between_rounds_at_the_clock_of_the_slowest() -> None:
    both = Apply((1, 2), (0.5, 0.5), 16, (0, 0), 1)
    table(
        Synchronous([1, 2], 5),
        (push(1, 0, 0), []),
        (Pull(3), []),
        (push(2, 0, 0), [both, answer(3, 1, 0), answer(1, 1, 1), answer(2, 1, 1)]),
        (push(1, 1, 1), []),
        (push(2, 1, 1), []),
        (push(3, 0, 1), [Apply((1, 2, 3), (8 / 24,) * 3, 24, (0, 0, 0), 2), Drained(2)]),
    )


def test_a_late_worker_is_part_of_a_round_that_has_no_gradient_yet() -> None:
    table(
        Synchronous([1], 4),
        (Pull(1), [answer(1, 0, 0)]),
        (Pull(2), [answer(2, 0, 0)]),
        (push(1, 0, 0), []),
        (
            push(2, 0, 0),
            [
                Apply((1, 2), (0.5, 0.5), 16, (0, 0), 1),
                answer(1, 1, 1),
                answer(2, 1, 1),
            ],
        ),
    )


def test_a_round_that_the_budget_does_not_fill_is_made_by_the_slowest() -> None:
    both = Apply((1, 2), (0.5, 0.5), 16, (0, 0), 1)
    table(
        Synchronous([1, 2], 3),
        (push(1, 0, 0), []),
        (push(2, 0, 0), [both, answer(1, 1, 1)]),
        (push(1, 1, 1), [Apply((1,), (1.0,), 8, (0,), 2), Drained(2)]),
    )


def test_stop_lets_the_open_round_come_home() -> None:
    table(
        Synchronous([1, 2], 100),
        (push(1, 0, 0), []),
        (Stop(), []),
        (push(2, 0, 0), [Apply((1, 2), (0.5, 0.5), 16, (0, 0), 1), Drained(1)]),
        (Pull(1), []),
    )


def test_stop_hands_out_nothing_after_a_later_leave_either() -> None:
    table(
        Synchronous([1, 2], 100),
        (push(1, 0, 0), []),
        (Stop(), []),
        (Leave(2), [Apply((1,), (1.0,), 8, (0,), 1), Drained(1)]),
        (Leave(1), []),
    )


def test_a_follower_answers_every_worker_and_never_drains() -> None:
    policy = Synchronous([1, 2])
    for version in range(5):
        assert policy.handle(push(1, version, version)) == []
        assert policy.handle(push(2, version, version)) == [
            Apply((1, 2), (0.5, 0.5), 16, (0, 0), version + 1),
            answer(1, version + 1, version + 1),
            answer(2, version + 1, version + 1),
        ]


def test_a_resumed_run_goes_on_from_its_version_and_clocks() -> None:
    policy = Synchronous([1, 2], 2, version=7, clocks={1: 7, 2: 6})
    table(
        policy,
        (Pull(2), [answer(2, 7, 6)]),
        (Pull(1), [answer(1, 7, 7)]),
        (push(1, 7, 7), []),
        (push(2, 6, 7), [Apply((1, 2), (0.5, 0.5), 16, (0, 0), 8), Drained(8)]),
    )
    assert policy.clocks == {1: 8, 2: 7}


@pytest.mark.parametrize(
    ("event", "text"),
    [
        (push(3, 0, 0), "worker 3 pushed gradient 0 without having been answered"),
        (
            push(1, 1, 0),
            "worker 1 pushed gradient 1 of batch 1 on version 0; expected gradient 0",
        ),
        (
            push(1, 0, 1),
            "worker 1 pushed gradient 0 of batch 0 on version 1; expected gradient 0",
        ),
    ],
)
def test_a_push_that_was_not_asked_for_is_refused(event: Push, text: str) -> None:
    with pytest.raises(ProtocolError, match=text):
        Synchronous([1, 2], 4).handle(event)


def test_a_second_push_in_one_round_is_refused() -> None:
    policy = Synchronous([1, 2], 4)
    policy.handle(push(1, 0, 0))
    with pytest.raises(ProtocolError, match="worker 1 pushed gradient 1 without having been"):
        policy.handle(push(1, 1, 0))


def test_a_push_of_a_worker_that_left_is_refused() -> None:
    policy = Synchronous([1, 2], 4)
    policy.handle(Leave(1))
    with pytest.raises(ProtocolError, match="worker 1 pushed gradient 0 without having been"):
        policy.handle(push(1, 0, 0))
