"""Workers that take every step together: rounds from meeting to meeting."""

from __future__ import annotations

from answers import answer as order
from hypothesis import given, settings
from hypothesis import strategies as st

from psdp.protocol import Apply, Drained, Lockstep, Pull, Push, SendWeights, Stop, Work


def push(answer: SendWeights) -> Push:
    """What a worker makes of an answer, in the slot of its worker's number."""
    worker, version, clock, steps = answer.worker, answer.version, answer.clock, answer.steps
    work = Work(clock, version, units=8 * steps, steps=steps, batch=answer.batch)
    return Push(worker, worker, work)


def test_a_round_goes_to_the_next_meeting_of_any_kind_and_a_version_counts_steps() -> None:
    policy = Lockstep([1, 2], 2 * 8, meetings=(3, 5))
    answers = [policy.handle(Pull(worker))[0] for worker in (1, 2)]
    assert answers == [order(1, 0, 0, 3), order(2, 0, 0, 3)]
    assert policy.handle(push(answers[1])) == []
    mean = Apply((1, 2), (0.5, 0.5), 48, (0, 0), 3)
    answers = [order(1, 3, 3, 2), order(2, 3, 3, 2)]
    assert policy.handle(push(order(1, 0, 0, 3))) == [mean, *answers]
    policy.handle(push(answers[0]))
    _, *answers = policy.handle(push(answers[1]))
    assert answers == [order(1, 5, 5, 1), order(2, 5, 5, 1)]
    policy.handle(push(answers[0]))
    _, *answers = policy.handle(push(answers[1]))
    assert answers == [order(1, 6, 6, 2), order(2, 6, 6, 2)], "the budget ends"
    policy.handle(push(answers[0]))
    assert policy.handle(push(answers[1]))[1:] == [Drained(8)]


def test_without_meetings_a_round_is_the_budget() -> None:
    policy = Lockstep([1, 2, 3], 3 * 100, version=7, clocks={1: 7, 2: 7, 3: 7})
    assert policy.handle(Pull(2)) == [order(2, 7, 7, 100)]


def test_a_stop_comes_after_the_round_that_is_under_way() -> None:
    policy = Lockstep([1], 100, meetings=(10,))
    (answer,) = policy.handle(Pull(1))
    assert isinstance(answer, SendWeights)
    assert policy.handle(Stop()) == []
    assert policy.handle(push(answer))[1:] == [Drained(10)]


@settings(deadline=None)
@given(
    st.integers(1, 4),
    st.integers(1, 60),
    st.lists(st.integers(1, 20), max_size=3),
    st.integers(0, 30),
)
def test_all_take_the_same_steps_and_meet_where_they_must(
    count: int, steps: int, meetings: list[int], start: int
) -> None:
    workers = range(1, count + 1)
    clocks = dict.fromkeys(workers, start)
    policy = Lockstep(workers, count * steps, meetings=meetings, version=start, clocks=clocks)
    answers = [effect for worker in workers for effect in policy.handle(Pull(worker))]
    met = []
    while not policy.drained:
        pushes = [push(answer) for answer in answers if isinstance(answer, SendWeights)]
        assert {(p.work.clock, p.work.version, p.work.steps) for p in pushes} == {
            (policy.version, policy.version, pushes[0].work.steps)
        }
        assert len(pushes) == count
        answers = [effect for p in pushes for effect in policy.handle(p)]
        met.append(policy.version)
    end = start + steps
    expected = {n for n in range(start + 1, end) if any(n % every == 0 for every in meetings)}
    assert met == sorted(expected | {end})
