"""Runs that go over from mode to mode, under random interleavings, and by hand."""

from __future__ import annotations

from typing import Any, TypeGuard

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from psdp.errors import ProtocolError
from psdp.modes import CANDIDATES, Pushed
from psdp.protocol import (
    Adaptive,
    Apply,
    Asynchronous,
    Deck,
    Drained,
    Leave,
    Move,
    Phase,
    Policy,
    Pull,
    Push,
    Ranges,
    SendWeights,
    StaleBounded,
    Stop,
    Switch,
    Synchronous,
    Work,
)
from psdp.protocol.events import Effect, Event

FIRST, *_ = CANDIDATES
FREE = settings(deadline=None, max_examples=200)
STEPS = 3


def adaptive(
    workers: list[int], budget: int, staleness: int, deck: Deck | None = None, **so_far: Any
) -> Adaptive:
    def start(mode: str, phase: Phase) -> Policy:
        common: dict[str, Any] = {"version": phase.version, "deck": deck}
        if mode == "ssp":
            return StaleBounded(phase.workers, phase.budget, staleness=staleness, **common)
        push, in_rounds = CANDIDATES[mode].pushes[0], CANDIDATES[mode].in_rounds
        kind = Synchronous if in_rounds else Asynchronous
        return kind(
            phase.workers,
            phase.budget,
            push=push,
            local_steps=1 if push is Pushed.GRADIENT else STEPS,
            paced=True,
            step_s=phase.step_s,
            **common,
        )

    return Adaptive(start, FIRST, workers, budget, deals=deck is not None, **so_far)


class Run:
    """Workers as they are: pull once, push what they were told to, wait for the answer."""

    def __init__(
        self, workers: list[int], budget: int, staleness: int, *, deals: bool = False, **so_far: Any
    ) -> None:
        self.policy = adaptive(workers, budget, staleness, Deck() if deals else None, **so_far)
        self.clocks = {worker: so_far.get("clocks", {}).get(worker, 0) for worker in workers}
        self.version = so_far.get("version", 0)
        self.asleep = set(workers)
        self.answers: dict[int, SendWeights] = {}
        self.deals, self.batches = deals, Ranges()
        self.pushed: dict[int, SendWeights] = {}
        self.total = self.drained = 0
        self.modes_seen: set[str] = set()

    def do(self, event: Event) -> list[Effect]:
        effects = self.policy.handle(event)
        for effect in effects:
            assert not self.drained, effects
            match effect:
                case Apply():
                    pushes = [self.pushed.pop(slot) for slot in effect.slots]
                    assert effect.version == self.version + 1
                    assert len({push.push for push in pushes}) == 1
                    assert effect.lags == tuple(self.version - push.version for push in pushes)
                    self.version += 1
                    self.total += sum(push.steps for push in pushes)
                case SendWeights(worker, version, clock, steps, batch, wanted):
                    assert worker not in self.answers
                    assert worker not in self.pushed, "answered before its gradient is applied"
                    assert (version, clock) == (self.version, self.clocks[worker])
                    assert self.deals or batch == clock
                    assert steps <= (1 if wanted is Pushed.GRADIENT else STEPS)
                    assert (wanted,) == CANDIDATES[self.policy.mode].pushes
                    self.modes_seen.add(self.policy.mode)
                    self.answers[worker] = effect
                case Drained(version):
                    assert (version, self.pushed, self.answers) == (self.version, {}, {})
                    self.drained += 1
        assert self.policy.clocks == self.clocks
        assert self.policy.drained == bool(self.drained)
        return effects

    def push(self, worker: int, step_s: float = 1.0) -> None:
        answer = self.answers.pop(worker)
        steps, batch = answer.steps, answer.batch
        work = Work(answer.clock, answer.version, steps, batch, steps, step_s=step_s)
        self.pushed[worker] = answer
        self.clocks[worker] += answer.steps
        if self.deals:
            self.batches.add(work.batches)
        self.do(Push(worker, worker, work))

    def go_on(self, pick: int) -> bool:
        ready = sorted(self.asleep | self.answers.keys())
        if not ready:
            return False
        worker = ready[pick % len(ready)]
        if worker in self.asleep:
            self.asleep.discard(worker)
            self.do(Pull(worker))
        else:
            self.push(worker, step_s=1.0 + worker % 3)
        return True

    def leave(self, worker: int) -> None:
        self.asleep.discard(worker)
        self.answers.pop(worker, None)
        del self.clocks[worker]
        self.do(Leave(worker))

    def move(self, worker: int) -> None:
        """Another rank computes for a worker, maybe before it has pulled."""
        self.asleep.discard(worker)
        self.answers.pop(worker, None)
        self.do(Move(worker, 99))

    def play(self, choices: list[int], *, leaves: bool = False, stops: bool = False) -> None:
        for choice in choices:
            kind, pick = choice % 16, choice // 16
            live = sorted(self.clocks)
            if kind == 0 and leaves and len(live) > 1:
                self.leave(live[pick % len(live)])
            elif kind == 1 and stops and pick % 4 == 0:
                self.do(Stop())
            elif kind == 4 and leaves:
                self.move(live[pick % len(live)])
            elif kind in (2, 3):
                self.do(Switch(list(CANDIDATES)[pick % len(CANDIDATES)]))
            else:
                self.go_on(pick)
        turn = 0
        while self.go_on(turn):
            turn += 1


choices = st.lists(st.integers(0, 16 * 64), max_size=100)


@FREE
@given(st.integers(1, 5), st.integers(0, 60), st.integers(0, 4), choices, st.booleans())
def test_whatever_the_modes_the_budget_is_applied_once(
    workers: int, budget: int, staleness: int, picks: list[int], deals: bool
) -> None:
    run = Run(list(range(1, workers + 1)), budget, staleness, deals=deals)
    run.play(picks)
    assert (run.drained, run.total, sum(run.clocks.values())) == (1, budget, budget)
    if deals:
        assert list(run.batches.pairs()) == ([(0, budget)] if budget else [])


@FREE
@given(st.integers(2, 5), st.integers(1, 60), st.integers(0, 4), choices, st.booleans())
def test_what_the_dead_had_is_done_by_others(
    workers: int, budget: int, staleness: int, picks: list[int], deals: bool
) -> None:
    run = Run(list(range(1, workers + 1)), budget, staleness, deals=deals)
    run.play(picks, leaves=True)
    assert (run.drained, run.total) == (1, budget)
    if deals:
        assert list(run.batches.pairs()) == [(0, budget)]


@FREE
@given(st.integers(1, 5), st.integers(1, 60), st.integers(0, 4), choices)
def test_a_stop_is_not_taken_for_a_change_of_mode(
    workers: int, budget: int, staleness: int, picks: list[int]
) -> None:
    run = Run(list(range(1, workers + 1)), budget, staleness)
    run.play(picks, leaves=True, stops=True)
    assert run.drained == 1
    assert run.total <= budget


@FREE
@given(
    st.dictionaries(st.integers(1, 6), st.integers(0, 9), min_size=1, max_size=5),
    st.integers(0, 40),
    choices,
)
def test_a_resumed_run_goes_on_from_any_clocks(
    clocks: dict[int, int], budget: int, picks: list[int]
) -> None:
    before = sum(clocks.values())
    run = Run(sorted(clocks), budget, 2, version=before, clocks=dict(clocks))
    run.play(picks)
    assert (run.drained, sum(run.clocks.values())) == (1, before + budget)


def begun(workers: int, budget: int, staleness: int = 1) -> Run:
    run = Run(list(range(1, workers + 1)), budget, staleness)
    for worker in sorted(run.asleep):
        run.asleep.discard(worker)
        run.do(Pull(worker))
    return run


def test_a_change_waits_for_what_is_out_and_hands_out_nothing_meanwhile() -> None:
    run = begun(3, 100)
    run.push(1)
    assert run.do(Switch("ssp")) == []
    run.push(2)
    assert run.policy.mode == "sync"
    run.push(3)
    assert run.policy.mode == "ssp"
    assert (run.total, run.version) == (3, 1)
    assert {answer.version for answer in run.answers.values()} == {1}
    run.push(2)
    assert run.total == 4, "applied on arrival"


def test_a_slower_worker_is_given_fewer_steps_from_the_first_round_on() -> None:
    run = begun(2, 100)
    for _ in range(2):
        run.push(1, step_s=1.0)
        run.push(2, step_s=3.0)
    run.do(Switch("local"))
    run.push(1, step_s=1.0)
    run.push(2, step_s=3.0)
    assert {worker: answer.steps for worker, answer in run.answers.items()} == {1: 3, 2: 1}
    assert {answer.push for answer in run.answers.values()} == {Pushed.CHANGE}


def test_the_bound_on_staleness_begins_with_its_phase() -> None:
    """Or the worker that did less alone would hold the others up until it had caught up."""
    run = begun(2, 1000, staleness=1)
    for worker in (1, 2):
        run.push(worker, step_s=3.0 if worker == 2 else 1.0)
    run.do(Switch("local"))
    for _ in range(6):
        for worker in (1, 2):
            run.push(worker, step_s=3.0 if worker == 2 else 1.0)
    assert run.clocks[1] - run.clocks[2] > 5
    run.do(Switch("ssp"))
    for worker in (1, 2):
        run.push(worker)
    assert run.policy.mode == "ssp"
    run.push(1)
    run.push(1)
    assert 1 not in run.answers, "two ahead of the other in this phase"
    run.push(2)
    assert 1 in run.answers


def test_every_mode_is_seen() -> None:
    run = begun(2, 150)
    for mode in (*CANDIDATES, *reversed(CANDIDATES)):
        run.do(Switch(mode))
        for _ in range(10):
            run.go_on(0)
    assert run.modes_seen == set(CANDIDATES)


def test_a_stop_counts_for_good_whether_a_change_is_wanted_before_or_after_it() -> None:
    for events in ((Stop(), Switch("local")), (Switch("local"), Stop())):
        run = begun(2, 100)
        for event in events:
            assert run.do(event) == []
        run.push(1)
        run.push(2)
        assert (run.drained, run.total, run.policy.mode) == (1, 2, "sync")


def test_with_the_budget_the_run_ends_and_goes_over_to_nothing() -> None:
    run = begun(2, 2)
    run.do(Switch("local"))
    run.push(1)
    run.push(2)
    assert (run.drained, run.policy.mode) == (1, "sync")


def test_a_phase_is_told_who_is_there_what_is_left_and_how_fast_each_was_of_late() -> None:
    phases: list[tuple[str, dict[int, int], int, int, dict[int, float]]] = []

    def start(mode: str, phase: Phase) -> Policy:
        workers, step_s = dict.fromkeys(phase.workers, 0), dict(phase.step_s)
        phases.append((mode, workers, phase.budget, phase.version, step_s))
        return StaleBounded(workers, phase.budget, staleness=99, version=phase.version)

    policy = Adaptive(start, "ssp", [1, 2, 3], 100, version=4, clocks={1: 2, 2: 2})
    assert phases == [("ssp", {1: 0, 2: 0, 3: 0}, 100, 4, {})]

    def answer_to(event: Event) -> SendWeights:
        answers = {effect.worker: effect for effect in policy.handle(event) if is_answer(effect)}
        return answers[event.worker]  # type: ignore[union-attr]

    def pushed(answer: SendWeights, step_s: float) -> Push:
        work = Work(answer.clock, answer.version, 8, answer.batch, 1, step_s=step_s)
        return Push(answer.worker, answer.worker, work)

    answers = {worker: answer_to(Pull(worker)) for worker in (1, 2, 3)}
    assert [answers[worker].clock for worker in (1, 2, 3)] == [2, 2, 0]
    for step in range(10):  # the first two are too long ago
        for worker in (1, 2, 3):
            answers[worker] = answer_to(pushed(answers[worker], 9.0 if step < 2 else worker))
    joined = answer_to(Pull(7))
    assert joined.clock == 10, "as far as the slowest is"
    assert policy.handle(Switch("local")) == []
    policy.handle(Leave(3))
    for worker in (1, 2):
        policy.handle(pushed(answers[worker], worker))
    begun_again = policy.handle(pushed(joined, 5.0))
    assert policy.clocks == {1: 13, 2: 13, 7: 11}
    assert [effect.clock for effect in begun_again if is_answer(effect)] == [13, 13, 11]
    speeds = {1: 1.0, 2: 2.0, 7: 5.0}
    assert phases[1:] == [("local", {1: 0, 2: 0, 7: 0}, 67, 37, speeds)]
    assert sum(policy.clock_gaps.values()) == 37, "one with every answer"


def is_answer(effect: Effect) -> TypeGuard[SendWeights]:
    return isinstance(effect, SendWeights)


def test_a_push_of_a_worker_that_nobody_knows_is_refused_as_it_came() -> None:
    policy = adaptive([1], 10, 1)
    with pytest.raises(ProtocolError, match="worker 9 pushed gradient 4 without"):
        policy.handle(Push(9, 9, Work(4, 0, 8, 4, 1, step_s=1.0)))
