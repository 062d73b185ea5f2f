"""Workers that compute several gradients between exchanges, event by event and at random."""

from __future__ import annotations

import pytest
from answers import answer
from hypothesis import given, settings
from hypothesis import strategies as st

from psdp.errors import ProtocolError
from psdp.protocol import (
    Apply,
    Asynchronous,
    Drained,
    Effect,
    Leave,
    Policy,
    Pull,
    Push,
    SendWeights,
    Synchronous,
    Work,
)


def push(answer: SendWeights, step_s: float = 0.0) -> Push:
    """What a worker makes of an answer, in the slot of its worker's number."""
    worker, version, clock, steps = answer.worker, answer.version, answer.clock, answer.steps
    work = Work(clock, version, units=8 * steps, steps=steps, step_s=step_s, batch=clock)
    return Push(worker, worker, work)


def test_a_round_is_so_many_steps_of_everyone_and_the_last_what_is_left() -> None:
    policy = Synchronous([1, 2], 10, local_steps=3)
    first = [policy.handle(Pull(worker))[0] for worker in (1, 2)]
    assert first == [answer(1, 0, 0, 3), answer(2, 0, 0, 3)]
    assert policy.handle(push(first[1])) == []
    mean = Apply((1, 2), (0.5, 0.5), 48, (0, 0), 1)
    second = [answer(1, 1, 3, 2), answer(2, 1, 3, 2)]
    assert policy.handle(push(first[0])) == [mean, *second]
    assert policy.handle(push(second[0])) == []
    assert policy.handle(push(second[1])) == [
        Apply((1, 2), (0.5, 0.5), 32, (0, 0), 2),
        Drained(2),
    ]


def test_a_push_of_other_steps_is_refused_with_those_that_were_asked_for() -> None:
    policy = Synchronous([1, 2], 9, local_steps=3)
    policy.handle(Pull(1))
    two = Push(1, 1, Work(clock=0, version=0, units=16, steps=2, step_s=0.0, batch=0))
    said = (
        "pushed gradient 0 and 1 after it of batch 0 on version 0; expected gradient 0 and 2 after"
    )
    with pytest.raises(ProtocolError, match=said):
        policy.handle(two)


def test_the_average_weighs_by_tokens() -> None:
    policy = Synchronous([1, 2], 5, local_steps=8)
    answers = [policy.handle(Pull(worker))[0] for worker in (1, 2)]
    assert answers == [answer(1, 0, 0, 3), answer(2, 0, 0, 2)]
    policy.handle(push(answers[0]))
    apply = policy.handle(push(answers[1]))[0]
    assert isinstance(apply, Apply)
    assert apply.weights == (3 / 5, 2 / 5)


def test_without_a_budget_or_a_pace_a_round_is_all_steps_of_everyone() -> None:
    policy = Synchronous([1, 2], local_steps=3)
    answers = [policy.handle(Pull(worker))[0] for worker in (1, 2)]
    assert answers == [answer(1, 0, 0, 3), answer(2, 0, 0, 3)]
    assert isinstance(answers[0], SendWeights)
    assert isinstance(answers[1], SendWeights)
    policy.handle(push(answers[0], step_s=1.0))
    _, *again = policy.handle(push(answers[1], step_s=5.0))
    assert again == [answer(1, 1, 3, 3), answer(2, 1, 3, 3)]


def test_a_slow_worker_takes_as_many_steps_as_it_can_meanwhile() -> None:
    policy = Asynchronous([1, 2], None, local_steps=12, paced=True)
    fast, slow = (policy.handle(Pull(worker))[0] for worker in (1, 2))
    assert isinstance(fast, SendWeights)
    assert isinstance(slow, SendWeights)
    fast = policy.handle(push(fast, step_s=0.1))[-1]
    assert fast == answer(1, 1, 12, 12)
    slow = policy.handle(push(slow, step_s=0.4))[-1]
    assert slow == answer(2, 2, 12, 3)
    slow = policy.handle(push(slow, step_s=100.0))[-1]
    assert slow == answer(2, 3, 15, 1)


def test_the_speed_of_who_left_sets_no_pace() -> None:
    policy = Asynchronous([1, 2], None, local_steps=12, paced=True)
    fast, slow = (policy.handle(Pull(worker))[0] for worker in (1, 2))
    assert isinstance(fast, SendWeights)
    assert isinstance(slow, SendWeights)
    policy.handle(push(fast, step_s=0.1))
    policy.handle(Leave(1))
    assert policy.handle(push(slow, step_s=0.4))[-1] == answer(2, 2, 12, 12)


def make(kind: int, workers: int, budget: int, steps: int) -> Policy:
    workers = range(1, workers + 1)
    if kind == 0:
        return Synchronous(workers, budget, local_steps=steps)
    return Asynchronous(workers, budget, local_steps=steps, paced=kind == 2)


@settings(deadline=None, max_examples=200)
@given(
    st.integers(0, 2),
    st.integers(1, 5),
    st.integers(0, 60),
    st.integers(1, 9),
    st.lists(st.integers(0, 200), max_size=80),
)
def test_whoever_is_fast_and_whoever_dies_exactly_the_budget_is_trained(
    kind: int, workers: int, budget: int, steps: int, picks: list[int]
) -> None:
    policy = make(kind, workers, budget, steps)
    answers: dict[int, SendWeights] = {}
    clocks = dict.fromkeys(range(1, workers + 1), 0)
    tokens, drained = 0, 0

    def take(effects: list[Effect]) -> None:
        nonlocal tokens, drained
        for effect in effects:
            match effect:
                case SendWeights(worker, clock=clock, steps=count):
                    assert clock == clocks[worker]
                    assert 1 <= count <= steps
                    answers[worker] = effect
                case Apply():
                    tokens += effect.units
                case Drained():
                    drained += 1

    for worker in list(clocks):
        take(policy.handle(Pull(worker)))
    turn = 0
    while answers:
        pick = picks[turn] if turn < len(picks) else turn
        turn += 1
        worker = sorted(answers)[pick % len(answers)]
        answer = answers.pop(worker)
        if pick % 11 == 0 and len(clocks) > 1:
            del clocks[worker]
            take(policy.handle(Leave(worker)))
        else:
            clocks[worker] += answer.steps
            take(policy.handle(push(answer, step_s=0.01 * (1 + pick % 5))))
    assert tokens == 8 * budget
    assert drained == 1
