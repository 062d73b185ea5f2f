"""Synchronous rounds that do not wait for the slowest, event by event."""

from __future__ import annotations

from dataclasses import replace

import pytest
from answers import answer

from psdp.protocol import (
    Apply,
    Deck,
    Drained,
    Drop,
    Effect,
    Event,
    Leave,
    Pull,
    Push,
    SendWeights,
    Synchronous,
    Work,
)


def push(worker: int, clock: int, version: int) -> Push:
    """A gradient in the slot of its worker's number."""
    return Push(worker, worker, Work(clock, version, units=8, batch=clock))


def mean(*workers: int, version: int) -> Apply:
    share = 1 / len(workers)
    zeros = (0,) * len(workers)
    return Apply(workers, (share,) * len(workers), 8 * len(workers), zeros, version)


def table(policy: Synchronous, *rows: tuple[Event, list[Effect]]) -> None:
    for number, (event, effects) in enumerate(rows):
        assert policy.handle(event) == effects, f"row {number}: {event}"


def three(pushes: int) -> Synchronous:
    policy = Synchronous([1, 2, 3], pushes, backup_workers=1)
    for worker in (1, 2, 3):
        policy.handle(Pull(worker))
    return policy


def test_a_round_goes_on_with_the_first_gradients_and_drops_the_last() -> None:
    table(
        three(6),
        (push(3, 0, 0), []),
        (push(1, 0, 0), [mean(1, 3, version=1), answer(1, 1, 1), answer(3, 1, 1)]),
        # The straggler is to compute the same batch again, on the weights of now.
        (push(2, 0, 0), [Drop(2, 2), answer(2, 1, 0)]),
        (push(2, 0, 1), []),
        (push(1, 1, 1), [mean(1, 2, version=2), answer(2, 2, 1), answer(1, 2, 2)]),
    )


def test_a_straggler_gets_another_chance_in_a_round_that_is_under_way() -> None:
    policy = three(6)
    policy.handle(push(1, 0, 0))
    policy.handle(push(3, 0, 0))
    table(
        policy,
        (push(3, 1, 1), []),
        (push(2, 0, 0), [Drop(2, 2), answer(2, 1, 0)]),
        (push(2, 0, 1), [mean(2, 3, version=2), answer(2, 2, 1), answer(3, 2, 2)]),
    )


def test_what_came_too_late_of_dealt_batches_is_dealt_again() -> None:
    policy = Synchronous([1, 2, 3], 6, backup_workers=1, deck=Deck())
    granted = {worker: policy.handle(Pull(worker))[0] for worker in (1, 2, 3)}
    assert [answer.batch for answer in granted.values() if isinstance(answer, SendWeights)] == [
        *(0, 1, 2),
    ]
    policy.handle(push(1, 0, 0))
    closed = policy.handle(Push(3, 3, Work(0, 0, units=8, batch=2)))
    assert [effect.batch for effect in closed if isinstance(effect, SendWeights)] == [3, 4]
    late = policy.handle(Push(2, 2, Work(0, 0, units=8, batch=1)))
    assert late == [Drop(2, 2), replace(answer(2, 1, 0), batch=1)]


def test_the_run_ends_without_its_straggler() -> None:
    policy = three(2)
    table(
        policy,
        (push(1, 0, 0), []),
        (push(3, 0, 0), [mean(1, 3, version=1), Drained(1)]),
        (push(2, 0, 0), [Drop(2, 2)]),
    )


def test_who_died_was_a_backup() -> None:
    policy = three(4)
    table(
        policy,
        (Leave(2), []),
        (push(1, 0, 0), []),
        (push(3, 0, 0), [mean(1, 3, version=1), answer(1, 1, 1), answer(3, 1, 1)]),
        (Leave(3), []),
        (push(1, 1, 1), [mean(1, version=2), answer(1, 2, 2)]),
    )


@pytest.mark.parametrize("backups", [0, 1, 2])
def test_without_stragglers_each_step_takes_as_many_gradients(backups: int) -> None:
    policy = Synchronous([1, 2, 3], 9, backup_workers=backups)
    answers = [policy.handle(Pull(worker))[0] for worker in (1, 2, 3)]
    sizes, drained = [], False
    while not drained:
        answer = answers.pop(0)
        assert isinstance(answer, SendWeights)
        for effect in policy.handle(push(answer.worker, answer.clock, answer.version)):
            if isinstance(effect, SendWeights):
                answers.append(effect)
            elif isinstance(effect, Apply):
                sizes.append(len(effect.slots))
            drained |= isinstance(effect, Drained)
    assert sum(sizes) == 9
    assert set(sizes[:-1]) == {3 - backups}
