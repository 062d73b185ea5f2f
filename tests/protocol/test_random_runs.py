"""Every policy under random interleavings of pulls, pushes, deaths, moves, late joins and stops.

The simulated workers do what real ones do: pull once, push only when answered, pull again now and
then (after an evaluation). Each effect is checked against a model that knows no mode but its rules.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from psdp.protocol import (
    Apply,
    Asynchronous,
    Deck,
    Drained,
    Drop,
    Effect,
    Event,
    Leave,
    Move,
    Policy,
    Pull,
    Push,
    Ranges,
    SendWeights,
    StaleBounded,
    Stop,
    Synchronous,
    Work,
)

FREE = settings(deadline=None, max_examples=200)

SYNC, ASYNC, SSP, BACKUP = "sync", "async", "ssp", "backup"


def backups_of(number: int, workers: list[int]) -> int:
    """Take the number that is drawn for every mode's slack for backup workers, and leave one."""
    return min(number, len(workers) - 1)


def make(
    mode: str,
    workers: list[int],
    pushes: int | None,
    staleness: int,
    version: int = 0,
    clocks: Mapping[int, int] | None = None,
    deck: Deck | None = None,
) -> Policy:
    so_far: dict[str, Any] = {"version": version, "clocks": clocks, "deck": deck}
    if mode == SYNC:
        return Synchronous(workers, pushes, **so_far)
    if mode == BACKUP:
        return Synchronous(workers, pushes, backup_workers=backups_of(staleness, workers), **so_far)
    if mode == ASYNC:
        return Asynchronous(workers, pushes, **so_far)
    return StaleBounded(workers, pushes, staleness=staleness, **so_far)


@dataclass
class Run:
    """One run of a policy, checked at every effect."""

    mode: str
    workers: list[int]
    pushes: int
    staleness: int = 0
    version: int = 0
    clocks: dict[int, int] = field(default_factory=dict)
    deals: bool = False
    batches: Ranges = field(default_factory=Ranges)
    """Of the gradients that were accepted; adding one twice would overlap."""

    def __post_init__(self) -> None:
        deck = Deck(self.batches.pairs()) if self.deals else None
        self.policy = make(
            self.mode, self.workers, self.pushes, self.staleness, self.version, self.clocks, deck
        )
        self.clocks = {worker: self.clocks.get(worker, 0) for worker in self.workers}
        self.asleep = set(self.workers)  # have not pulled yet
        self.answered: dict[int, SendWeights] = {}
        self.owed: set[int] = set()  # pulled or pushed, and not answered since
        self.pushed: set[int] = set()  # of the owed: those whose grant is used up
        self.round: dict[int, Push] = {}
        self.total = 0
        self.wanted = len(self.workers) - backups_of(self.staleness, self.workers)
        self.dropped = 0
        self.stopped = False
        self.drained = 0

    def do(self, event: Event) -> list[Effect]:
        effects = self.policy.handle(event)
        for effect in effects:
            assert not self.drained or isinstance(effect, SendWeights | Drop), effects
            match effect:
                case Apply():
                    self._check_apply(effect)
                case SendWeights():
                    self._check_answer(effect)
                case Drop(worker, slot):
                    assert self.mode == BACKUP
                    assert slot == 100 + worker
                    self.dropped += 1
                case Drained(version):
                    self.drained += 1
                    assert version == self.version
                    assert not self.answered or self.mode == BACKUP
                    assert not self.round
        assert self.drained <= 1
        assert self.policy.version == self.version
        assert self.policy.clocks == self.clocks
        return effects

    def pull(self, worker: int) -> None:
        """A worker's first pull, maybe of one that joins late, or one after an evaluation."""
        if worker not in self.clocks:
            self.clocks[worker] = min(self.clocks.values(), default=0)
        self._ask(Pull(worker))

    def move(self, worker: int) -> None:
        """Another rank computes for a worker, maybe before it has pulled: nobody does so then."""
        self._ask(Move(worker, 99))

    def _ask(self, event: Pull | Move) -> None:
        worker = event.worker
        self.asleep.discard(worker)
        again = self.answered.pop(worker, None)
        self.owed.add(worker)
        effects = self.do(event)
        if again is not None and self.drained:
            assert self.mode == BACKUP, "only late gradients are out at the end"
            assert effects == []
        elif again is not None:
            assert effects == [SendWeights(worker, self.version, again.clock, batch=again.batch)]

    def push(self, worker: int, units: int) -> None:
        answer = self.answered.pop(worker)
        work = Work(answer.clock, answer.version, units=units, batch=answer.batch)
        push = Push(worker, 100 + worker, work)
        self.owed.add(worker)
        self.pushed.add(worker)
        if self.mode == BACKUP and push.work.version < self.version:
            dropped = self.dropped
            assert self.do(push)[0] == Drop(worker, push.slot)
            assert self.dropped == dropped + 1
            return
        self.round[worker] = push
        if self.deals:
            assert not any(a <= push.work.batch < b for a, b in self.batches.pairs()), "twice"
            self.batches.add(range(push.work.batch, push.work.batch + 1))
        self.clocks[worker] += 1
        effects = self.do(push)
        if self.mode == ASYNC:
            out = len(self.answered) + len(self.asleep)
            budget_left = not self.stopped and self.total + out < self.pushes
            assert isinstance(effects[0], Apply)
            assert not budget_left or isinstance(effects[1], SendWeights)

    def leave(self, worker: int) -> None:
        for gone in (self.asleep, self.owed, self.pushed):
            gone.discard(worker)
        self.answered.pop(worker, None)
        del self.clocks[worker]
        self.do(Leave(worker))

    def stop(self) -> None:
        self.stopped = True
        self.do(Stop())

    def _check_apply(self, apply: Apply) -> None:
        assert apply.version == self.version + 1
        pushes = [self.round[worker] for worker in sorted(self.round)]
        assert apply.slots == tuple(push.slot for push in pushes)
        assert apply.lags == tuple(self.version - push.work.version for push in pushes)
        assert apply.units == sum(push.work.units for push in pushes)
        assert math.isclose(sum(apply.weights), 1.0, rel_tol=1e-12)
        for push, weight in zip(pushes, apply.weights, strict=True):
            assert math.isclose(weight * apply.units, push.work.units, rel_tol=1e-12)
        if self.mode == SYNC:
            assert not self.answered, "a live worker's gradient is missing from the round"
            assert set(apply.lags) == {0}
        elif self.mode == BACKUP:
            assert set(apply.lags) == {0}
            last = self.total + len(pushes) == self.pushes
            assert len(pushes) == self.wanted or not self.answered or last
        else:
            assert len(pushes) == 1
        self.total += len(pushes)
        self.version += 1
        self.round.clear()

    def _check_answer(self, answer: SendWeights) -> None:
        worker = answer.worker
        assert worker in self.owed, "answered twice without pushing"
        clock = self.clocks[worker]
        batch = answer.batch if self.deals else clock
        assert answer == SendWeights(worker, self.version, clock, batch=batch)
        if self.mode == SSP:
            assert self.clocks[worker] - min(self.clocks.values()) <= self.staleness
        if self.stopped or self.drained:
            assert worker not in self.pushed, "new work after Stop"
        self.owed.remove(worker)
        self.pushed.discard(worker)
        self.answered[worker] = answer

    def play(self, choices: list[int], *, leaves: bool, joins: bool, stops: bool) -> None:
        """Let each number choose what happens next; then let everyone come home."""
        for choice in choices:
            kind, pick = choice % 16, choice // 16
            live = sorted(self.clocks)
            if kind == 0 and leaves and len(live) > 1:
                self.leave(live[pick % len(live)])
            elif kind == 1 and joins:
                self.pull(max([*live, *self.workers]) + 1 + pick % 3)
            elif kind == 2 and stops and pick % 4 == 0:
                self.stop()
            elif kind == 3 and self.answered:
                self.pull(sorted(self.answered)[pick % len(self.answered)])
            elif kind == 4 and leaves:
                self.move(live[pick % len(live)])
            else:
                self._go_on(pick)
        turn = 0
        while self._go_on(turn):
            turn += 1

    def _go_on(self, pick: int) -> bool:
        ready = sorted(self.asleep | self.answered.keys())
        if not ready:
            return False
        worker = ready[pick % len(ready)]
        if worker in self.asleep:
            self.pull(worker)
        else:
            self.push(worker, units=1 + pick % 7)
        return True


modes = st.sampled_from([SYNC, ASYNC, SSP, BACKUP])
choices = st.lists(st.integers(0, 16 * 64), max_size=60)


@FREE
@given(modes, st.integers(1, 5), st.integers(0, 30), st.integers(0, 4), choices)
def test_without_deaths_exactly_the_budget_is_applied_and_the_run_drains(
    mode: str, workers: int, pushes: int, staleness: int, picks: list[int]
) -> None:
    run = Run(mode, list(range(1, workers + 1)), pushes, staleness)
    run.play(picks, leaves=False, joins=False, stops=False)
    assert (run.drained, run.total) == (1, pushes)
    assert sum(run.clocks.values()) == pushes
    if mode == SSP:
        assert max(run.policy.clock_gaps, default=0) <= staleness
    if mode == SYNC:
        assert run.version == -(-pushes // workers)


@FREE
@given(modes, st.integers(1, 5), st.integers(1, 30), st.integers(0, 4), choices)
def test_with_deaths_and_late_joins_the_grants_of_the_dead_are_redone(
    mode: str, workers: int, pushes: int, staleness: int, picks: list[int]
) -> None:
    run = Run(mode, list(range(1, workers + 1)), pushes, staleness)
    run.play(picks, leaves=True, joins=True, stops=False)
    assert (run.drained, run.total) == (1, pushes)
    if mode == SSP:
        assert max(run.policy.clock_gaps, default=0) <= staleness


@FREE
@given(modes, st.integers(1, 5), st.integers(1, 30), st.integers(0, 4), choices)
def test_a_stop_at_any_time_brings_every_run_home(
    mode: str, workers: int, pushes: int, staleness: int, picks: list[int]
) -> None:
    run = Run(mode, list(range(1, workers + 1)), pushes, staleness)
    run.play(picks, leaves=True, joins=True, stops=True)
    assert run.drained == 1
    assert run.total <= pushes
    assert run.stopped or run.total == pushes


@FREE
@given(
    modes,
    st.dictionaries(st.integers(1, 6), st.integers(0, 9), min_size=1, max_size=5),
    st.integers(0, 20),
    st.integers(0, 4),
    choices,
)
def test_a_resumed_run_goes_on_from_any_clocks_and_computes_the_rest(
    mode: str, clocks: dict[int, int], pushes: int, staleness: int, picks: list[int]
) -> None:
    before = sum(clocks.values())
    run = Run(mode, sorted(clocks), pushes, staleness, version=before, clocks=dict(clocks))
    run.play(picks, leaves=False, joins=False, stops=False)
    assert (run.drained, run.total) == (1, pushes)
    assert sum(run.clocks.values()) == before + pushes


@FREE
@given(
    modes,
    st.integers(1, 5),
    st.integers(0, 30),
    st.integers(0, 4),
    st.lists(st.integers(0, 25), unique=True, max_size=8),
    choices,
    st.booleans(),
)
def test_dealt_batches_are_computed_once_each_whoever_leaves_and_whatever_was_done(
    mode: str,
    workers: int,
    pushes: int,
    staleness: int,
    done: list[int],
    picks: list[int],
    leaves: bool,
) -> None:
    batches = Ranges((number, number + 1) for number in done)
    workers = list(range(1, workers + 1))
    run = Run(mode, workers, pushes, staleness, deals=True, batches=batches)
    run.play(picks, leaves=leaves, joins=leaves, stops=False)
    assert run.total == pushes
    assert sum(stop - start for start, stop in batches.pairs()) == len(done) + pushes
    if mode != BACKUP:  # where those of the last gradients that were late are still missing
        holes_first = [n for n in range(60) if n not in done][:pushes]
        assert sorted([*done, *holes_first]) == [
            n for start, stop in batches.pairs() for n in range(start, stop)
        ]
