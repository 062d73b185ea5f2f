"""A simulated worker: it pulls, takes its steps, pushes, and may fail and come back."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator
from enum import IntEnum, auto
from functools import partial
from typing import Any

from psdp.modes import Pushed
from psdp.protocol import SendWeights
from psdp.simulate.clock import Action, Clock, Cores
from psdp.simulate.costs import Costs
from psdp.workers.handicap import Handicap


class State(IntEnum):
    """What a worker's time goes into."""

    COMPUTING = auto()
    WAITING = auto()
    AWAY = auto()


Part = tuple[float, float, tuple[Any, ...] | None]
"""Of what a worker does by itself: for how long it uses a core and then sleeps, and, of the last
part, what is called then, which others see, and with what."""

Program = Generator[Part, float, None]
"""Yields part by part, and is sent the time at which each is over."""

_UNTRAINED = Pushed.GRADIENT, Pushed.NOTHING
"""What is pushed where a step has no update of the worker's own."""


class Worker:
    """Computes what it is answered.

    Where nothing can come between, as it has a core of its own, does one thing at a time and never
    fails, it runs ahead of the clock, and waits for it before others see something of it: so a
    gradient is one event of the clock, however many steps and sleeps it takes.

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
            instead, None if that is nothing; None where nothing is evaluated.
        evaluated: called when that is done.
        reduce: adds up the gradients of all workers after each step, then calls what it is given;
            None where servers do.

    Attributes:
        life: counts how often it has failed; what it did in an earlier life is void.
        pulls: answers that it has taken.
        spent_s: by state, once it has :meth:`ended`.
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
        evaluation_s: Callable[[], float | None] | None,
        evaluated: Action,
        reduce: Callable[[Action], None] | None,
    ) -> None:
        self.life = 0
        self.pulls = 0
        self.spent_s = dict.fromkeys(State, 0.0)
        self._clock = clock
        self._cores, self._process = cores, cores.process()
        self._runs_ahead = not (cores.shared or overlaps or costs.mtbf_s is not None)
        self._push_s = costs.worker_message_s + push_size * costs.push_s_per_byte
        self._pull_s = costs.worker_message_s + pull_size * costs.pull_s_per_byte
        self._steps = steps
        self._handicap = handicap
        self._shards = shards
        self._inner_s = inner_s
        self._overlaps = overlaps
        self._push = push
        self._evaluation_s = evaluation_s
        self._evaluated = evaluated
        self._reduce = reduce
        self._present = State.WAITING, 0.0
        """The state of which nothing is counted yet, and since when."""
        self._entered: list[tuple[State, float]] = []
        """Later ones. What is ahead of the clock may never come."""
        self._forget()

    def _forget(self) -> None:
        self._arrived, self._latest_s = 0, 0.0
        """Shards of the next answer that have come, and when the latest of them did or will."""
        self._pulled_s = 0.0
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
        self._entered.append((State.AWAY, self._clock.now_s))

    def come_back(self) -> None:
        """Live again, and wait for an answer."""
        self._entered.append((State.WAITING, self._clock.now_s))

    def ended(self) -> None:
        """The run is over: count what it spent until now, and not what it was ahead."""
        now_s = self._clock.now_s
        self.pulls -= self._pulled_s > now_s
        self._entered = [entered for entered in self._entered if entered[1] <= now_s]
        self._entered.append((State.AWAY, now_s))
        self._account()

    def _account(self) -> None:
        """Count what was spent in states that are over."""
        present, since_s = self._present
        for state, entered_s in self._entered:
            self.spent_s[present] += entered_s - since_s
            present, since_s = state, entered_s
        self._present = present, since_s
        self._entered.clear()

    def expect(self, arrives_s: float, life: int, answer: SendWeights) -> None:
        """A shard of an answer will be here then; with the last one, go on."""
        if self._runs_ahead:
            self._arrive(life, arrives_s, answer)
        else:
            self._clock.at(arrives_s, self._arrive, life, arrives_s, answer)

    def _arrive(self, life: int, arrives_s: float, answer: SendWeights) -> None:
        if life != self.life:
            return
        self._arrived += 1
        if arrives_s > self._latest_s:
            self._latest_s = arrives_s
        if self._arrived < self._shards:
            return
        self._arrived = 0
        self.pulls += 1
        self._pulled_s = self._latest_s
        self._account()
        if self._runs_ahead:
            self._begin(answer, self._pulled_s + self._pull_s)
        else:
            self._process.run(self._pull_s, self._begin_in, self.life, answer)

    def _begin_in(self, life: int, answer: SendWeights) -> None:
        if life == self.life:
            self._begin(answer, self._clock.now_s)

    # What it does by itself

    def _begin(self, answer: SendWeights, now_s: float) -> None:
        """Do what an answer says, which is taken at this time."""
        if self._computing_ahead:
            self._answer = answer
        elif (evaluation_s := self._evaluation_s and self._evaluation_s()) is not None:
            self._entered.append((State.COMPUTING, now_s))
            self._do(_only((evaluation_s, 0.0, (self._ask,))), now_s)
        elif self._ahead is not None:
            (version, step_s), self._ahead = self._ahead, None
            self._do(_only(self._finish(answer, version, step_s, now_s)), now_s)
        else:
            self._entered.append((State.COMPUTING, now_s))
            self._do(self._train(answer, 0, now_s, now_s), now_s)

    def _do(self, program: Program, now_s: float) -> None:
        """Run a program that begins at this time."""
        if not self._runs_ahead:
            self._go_on(program, next(program))
            return
        busy_s, sleep_s, then = next(program)
        while then is None:
            now_s = now_s + busy_s + sleep_s
            busy_s, sleep_s, then = program.send(now_s)
        self._clock.at(now_s + busy_s + sleep_s, *then)

    def _go_on(self, program: Program, part: Part) -> None:
        """Do a part of a program, which begins now, and what follows."""
        self._process.run(part[0], self._slept, self.life, program, part, False)

    def _slept(self, life: int, program: Program, part: Part, awake: bool = True) -> None:
        _, sleep_s, then = part
        if life != self.life:
            return
        if sleep_s and not awake:
            self._clock.after(sleep_s, self._slept, life, program, part)
        elif then is None:
            self._go_on(program, program.send(self._clock.now_s))
        else:
            then[0](*then[1:])

    def _ask(self) -> None:
        self._entered.append((State.WAITING, self._clock.now_s))
        self._evaluated()

    def _train(self, answer: SendWeights, done: int, begin_s: float, now_s: float) -> Program:
        """Take the steps that are left after those done, the first of which began then."""
        while True:
            busy_s, sleep_s = self._step(answer.clock + done, answer.push, now_s)
            done += 1
            if self._reduce is not None:
                yield busy_s, sleep_s, (self._join, answer, done, begin_s)
            now_s = yield busy_s, sleep_s, None
            if done == answer.steps:
                yield self._finish(answer, answer.version, (now_s - begin_s) / done, now_s)

    def _join(self, answer: SendWeights, done: int, begin_s: float) -> None:
        """Add a gradient to those of all workers."""
        assert self._reduce is not None
        self._entered.append((State.WAITING, self._clock.now_s))
        self._reduce(partial(self._reduced, answer, done, begin_s))

    def _reduced(self, answer: SendWeights, done: int, begin_s: float) -> None:
        now_s = self._clock.now_s
        self._entered.append((State.COMPUTING, now_s))
        self._do(self._update(answer, done, begin_s), now_s)

    def _update(self, answer: SendWeights, done: int, begin_s: float) -> Program:
        """Update with the sum of all workers' gradients, then go on."""
        now_s = yield self._inner_s, 0.0, None
        if done == answer.steps:
            yield self._finish(answer, answer.version, (now_s - begin_s) / done, now_s)
        yield from self._train(answer, done, begin_s, now_s)

    def _step(self, clock: int, push: Pushed, now_s: float) -> tuple[float, float]:
        """Return for how long gradient number ``clock`` computes and sleeps."""
        busy_s = next(self._steps)
        handicap = self._handicap
        sleep_s = handicap.extra_s(clock, busy_s, now_s) if handicap.acts else 0.0
        # After a sum over all workers the optimizer comes later.
        return busy_s + (0.0 if push in _UNTRAINED else self._inner_s), sleep_s

    def _finish(self, answer: SendWeights, version: int, step_s: float, now_s: float) -> Part:
        """Return the last part: a push."""
        self._entered.append((State.WAITING, now_s))
        push = self._push_on if self._overlaps else self._push
        return self._push_s, 0.0, (push, answer, version, step_s)

    def _push_on(self, answer: SendWeights, version: int, step_s: float) -> None:
        """Push, and compute the next gradient meanwhile."""
        self._push(answer, version, step_s)
        now_s = self._clock.now_s
        self._entered.append((State.COMPUTING, now_s))
        self._computing_ahead = True
        busy_s, sleep_s = self._step(answer.clock + 1, answer.push, now_s)
        self._do(_only((busy_s, sleep_s, (self._came_ahead, answer.version, now_s))), now_s)

    def _came_ahead(self, version: int, begin_s: float) -> None:
        """The next gradient is ready, on the same weights; go on if its answer is here."""
        now_s = self._clock.now_s
        self._entered.append((State.WAITING, now_s))
        self._computing_ahead = False
        self._ahead = version, now_s - begin_s
        answer, self._answer = self._answer, None
        if answer is not None:
            self._begin(answer, now_s)


def _only(part: Part) -> Program:
    yield part
