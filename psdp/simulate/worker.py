"""A simulated worker: it pulls, takes its steps, pushes, and may fail and come back."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from enum import Enum
from functools import partial

from psdp.modes import Pushed
from psdp.protocol import SendWeights
from psdp.simulate.clock import Action, Clock, Cores
from psdp.simulate.costs import Costs
from psdp.workers.handicap import Handicap


class State(Enum):
    """What a worker's time goes into."""

    COMPUTING = "computing"
    WAITING = "waiting"
    AWAY = "away"


class Worker:
    """Computes what it is answered.

    Args:
        steps: the processor seconds of its steps.
        handicap: what it sleeps beyond them.
        shards: in which an answer comes.
        push_size, pull_size: bytes of a push, and of a pull.
        inner_s: processor seconds of the optimizer that it runs itself after each step, where it
            does.
        overlaps: whether it computes its next gradient while it waits for an answer.
        push: called when what it was ordered is computed, with the version that it was computed on
            and the mean seconds of a step.
        evaluation_s: returns the processor seconds of what its latest answer has it evaluate
            instead, None if that is nothing.
        evaluated: called when that is done.
        reduce: adds up the gradients of all workers after each step, then calls what it is given;
            None where servers do.

    Attributes:
        life: counts how often it has failed; what it did in an earlier life is void.
        pulls: answers that it has taken.
        spent_s: by state.
    """

    def __init__(
        self,
        clock: Clock,
        cores: Cores,
        costs: Costs,
        *,
        steps: Iterator[float],
        handicap: Handicap,
        shards: int,
        push_size: int,
        pull_size: int,
        inner_s: float,
        overlaps: bool,
        push: Callable[[SendWeights, int, float], None],
        evaluation_s: Callable[[], float | None],
        evaluated: Action,
        reduce: Callable[[Action], None] | None,
    ) -> None:
        self.life = 0
        self.pulls = 0
        self.spent_s = dict.fromkeys(State, 0.0)
        self._clock = clock
        self._cores, self._process = cores, cores.process()
        self._costs = costs
        self._steps = steps
        self._handicap = handicap
        self._shards = shards
        self._push_size = push_size
        self._pull_size = pull_size
        self._inner_s = inner_s
        self._overlaps = overlaps
        self._push = push
        self._evaluation_s = evaluation_s
        self._evaluated = evaluated
        self._reduce = reduce
        self._state, self._since_s = State.WAITING, 0.0
        self._forget()

    def _forget(self) -> None:
        self._arrived = 0
        self._computing_ahead = False
        self._ahead: tuple[int, float] | None = None
        """Of the gradient that is ready for the next answer: its version, and what it took."""
        self._answer: SendWeights | None = None
        """That has come before the gradient was ready."""

    def fail(self) -> None:
        """Lose everything."""
        self.life += 1
        self._process = self._cores.process()
        self._forget()
        self.enter(State.AWAY)

    def enter(self, state: State) -> None:
        """Be in this state from now on."""
        self.spent_s[self._state] += self._clock.now_s - self._since_s
        self._state, self._since_s = state, self._clock.now_s

    def arrive(self, life: int, answer: SendWeights) -> None:
        """A shard of an answer is here; with the last one, go on."""
        if life != self.life:
            return
        self._arrived += 1
        if self._arrived == self._shards:
            self._arrived = 0
            self.pulls += 1
            busy_s = self._costs.worker_message_s + self._pull_size * self._costs.pull_s_per_byte
            self._run(busy_s, lambda: self._begin(answer))

    def _begin(self, answer: SendWeights) -> None:
        if self._computing_ahead:
            self._answer = answer
        elif (evaluation_s := self._evaluation_s()) is not None:
            self.enter(State.COMPUTING)
            self._run(evaluation_s, self._ask)
        elif self._ahead is not None:
            (version, step_s), self._ahead = self._ahead, None
            self._finish(answer, version, step_s)
        else:
            self.enter(State.COMPUTING)
            self._step(answer, 0, self._clock.now_s)

    def _ask(self) -> None:
        self.enter(State.WAITING)
        self._evaluated()

    def _step(self, answer: SendWeights, done: int, begin_s: float) -> None:
        if done == answer.steps:
            self._finish(answer, answer.version, (self._clock.now_s - begin_s) / done)
        else:
            then = partial(self._stepped, answer, done + 1, begin_s)
            self._compute(answer.clock + done, answer.push, then)

    def _stepped(self, answer: SendWeights, done: int, begin_s: float) -> None:
        if self._reduce is None:
            self._step(answer, done, begin_s)
            return
        self.enter(State.WAITING)
        self._reduce(lambda: self._reduced(answer, done, begin_s))

    def _reduced(self, answer: SendWeights, done: int, begin_s: float) -> None:
        self.enter(State.COMPUTING)
        self._run(self._inner_s, lambda: self._step(answer, done, begin_s))

    def _compute(self, clock: int, push: Pushed, then: Action) -> None:
        """Compute gradient number ``clock``; call ``then``."""
        busy_s = next(self._steps)
        sleep_s = self._handicap.extra_s(clock, busy_s, self._clock.now_s)
        # After a sum over all workers the optimizer comes later.
        trains = push not in (Pushed.GRADIENT, Pushed.NOTHING)
        own_s = busy_s + (self._inner_s if trains else 0.0)
        if sleep_s:
            self._run(own_s, lambda: self._after(sleep_s, then))
        else:
            self._run(own_s, then)

    def _finish(self, answer: SendWeights, version: int, step_s: float) -> None:
        self.enter(State.WAITING)
        busy_s = self._costs.worker_message_s + self._push_size * self._costs.push_s_per_byte
        self._run(busy_s, lambda: self._pushed(answer, version, step_s))

    def _pushed(self, answer: SendWeights, version: int, step_s: float) -> None:
        self._push(answer, version, step_s)
        if self._overlaps:
            self.enter(State.COMPUTING)
            self._computing_ahead = True
            begin_s = self._clock.now_s
            then = partial(self._came_ahead, answer.version, begin_s)
            self._compute(answer.clock + 1, answer.push, then)

    def _came_ahead(self, version: int, begin_s: float) -> None:
        self.enter(State.WAITING)
        self._computing_ahead = False
        self._ahead = version, self._clock.now_s - begin_s
        answer, self._answer = self._answer, None
        if answer is not None:
            self._begin(answer)

    def _run(self, busy_s: float, then: Action) -> None:
        life = self.life
        self._process.run(busy_s, lambda: then() if life == self.life else None)

    def _after(self, delay_s: float, then: Action) -> None:
        life = self.life
        self._clock.after(delay_s, lambda: then() if life == self.life else None)
