"""Threads that take turns on a clock of their own: one seed, one run.

Within :class:`Turns`, the ranks of a job in memory and their writers run one at a time. Who is next
is drawn from a seed wherever a thread takes a lock or sleeps, and time passes only where all sleep:
a job takes no longer than it computes, and one that fails does so again from the same seed.

Imported before psdp is, since many of its arguments have clocks of the module ``time`` as defaults.
"""

from __future__ import annotations

import itertools
import math
import os
import random
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from types import SimpleNamespace
from typing import Any
from unittest import mock

SWITCHES = 0.1
"""How often a thread that takes a lock lets another one go first."""

READING_S = 1e-6
"""How long it takes to read a clock: whoever waits for a time without a sleep comes to it."""


class _Clock:
    """A function of the module ``time``, or what the turns of this thread have in its place."""

    turns: Turns | None = None

    def __init__(self, name: str, replaced: str) -> None:
        self._real = getattr(time, name)
        self._replaced = replaced
        setattr(time, name, self)

    def __call__(self, *args: Any) -> Any:
        turns = _Clock.turns
        if turns is None or turns.foreign:
            return self._real(*args)
        return getattr(turns, self._replaced)(*args)


for _name in ("monotonic", "perf_counter", "thread_time"):
    _Clock(_name, "read")
_Clock("sleep", "sleep")


class Over(BaseException):
    """The turns are over: this thread is to end."""


class Turns:
    """Let threads that begin within this context take turns.

    Attributes:
        count: of turns so far.
    """

    def __init__(self, seed: int) -> None:
        self._dice = random.Random(seed)
        self._now_s = 0.0
        self._over = False
        self._tasks: list[_Task] = []
        self._by_thread: dict[int, _Task] = {}
        self._stack = ExitStack()
        self.count = 0

    def __enter__(self) -> Turns:
        from psdp.checkpoint import background
        from psdp.transport import in_memory, in_memory_world, shared

        self.begin(_Task())
        self.arrive(self._tasks[0])
        names = SimpleNamespace(
            Thread=lambda **how: Thread(self, **how),
            Condition=lambda: Condition(self),
            Lock=threading.Lock,
            TIMEOUT_MAX=math.inf,
        )
        for module in (background, in_memory, in_memory_world):
            self._stack.enter_context(mock.patch.object(module, "threading", names))
        bells = Bells(self)
        self._stack.enter_context(mock.patch.object(shared, "Bell", bells.new))
        self._stack.enter_context(mock.patch.object(shared, "Ringer", bells.ringer))
        self._stack.enter_context(mock.patch.object(_Clock, "turns", self))
        return self

    def __exit__(self, *_: object) -> None:
        """End the threads that are left, such as those of ranks that were killed."""
        self._over = True
        for task in self._tasks[1:]:
            task.go.release()
            task.thread.join()
        self._stack.close()

    # What a thread does

    @property
    def foreign(self) -> bool:
        """Whether this thread takes no turns."""
        return threading.get_ident() not in self._by_thread

    def read(self) -> float:
        """Return what every clock says."""
        self._now_s += READING_S
        return self._now_s

    def sleep(self, seconds: float) -> None:
        """Let others have their turns for so long."""
        self.wait(self._now_s + seconds)

    def wait(self, until_s: float) -> None:
        """Let others have their turns until then, or until one of them wakes this thread."""
        task = self.task()
        if self._over:
            raise Over
        task.wake_s = until_s
        self._hand_over(task)

    def wake(self, task: _Task) -> None:
        task.wake_s = min(task.wake_s, self._now_s)

    def may_switch(self) -> None:
        """Let another thread go first, sometimes."""
        if self._dice.random() < SWITCHES:
            self.sleep(0.0)

    def task(self) -> _Task:
        """Return this thread."""
        return self._by_thread[threading.get_ident()]

    def begin(self, task: _Task) -> None:
        """Let a thread have turns."""
        self._tasks.append(task)

    def arrive(self, task: _Task) -> None:
        """This thread is that one."""
        self._by_thread[threading.get_ident()] = task

    def end(self, task: _Task) -> None:
        """A thread is done: it has no turn any more."""
        self._tasks.remove(task)
        del self._by_thread[threading.get_ident()]
        if not self._over:
            self._next().go.release()

    # Who is next

    def _hand_over(self, task: _Task) -> None:
        following = self._next()
        if following is not task:
            following.go.release()
            task.go.acquire()
            if self._over:
                raise Over

    def _next(self) -> _Task:
        self.count += 1
        while not (ready := [task for task in self._tasks if task.wake_s <= self._now_s]):
            self._now_s = min(task.wake_s for task in self._tasks)
            assert self._now_s < math.inf, "all threads wait for one another"
        return self._dice.choice(ready)


class _Task:
    """A thread, from its beginning to its end.

    Attributes:
        go: is released when it has its turn.
        wake_s: when it is to have one.
    """

    thread: threading.Thread

    def __init__(self) -> None:
        self.go = threading.Lock()
        self.go.acquire()
        self.wake_s = 0.0


class Thread:
    """In the place of :class:`threading.Thread`."""

    def __init__(
        self,
        turns: Turns,
        *,
        target: Callable[..., None],
        args: Sequence[Any] = (),
        name: str,
        daemon: bool,
    ) -> None:
        self._turns = turns
        self._task = _Task()
        self._ended = Condition(turns)
        self._alive = True
        self._target, self._args, self.name = target, args, name
        self._task.thread = threading.Thread(target=self._run, name=name, daemon=daemon)

    @property
    def ident(self) -> int | None:
        return self._task.thread.ident

    def start(self) -> None:
        self._turns.begin(self._task)
        self._task.thread.start()

    def join(self, timeout: float | None = None) -> None:
        self._ended.wait_for(lambda: not self._alive, timeout)

    def is_alive(self) -> bool:
        return self._alive

    def _run(self) -> None:
        self._task.go.acquire()
        self._turns.arrive(self._task)
        try:
            self._target(*self._args)
        except Over:
            pass
        finally:
            self._alive = False
            self._ended.notify_all()
            self._turns.end(self._task)


class Condition:
    """In the place of :class:`threading.Condition`. Whoever has it keeps its turn, so nobody waits
    for the lock."""

    def __init__(self, turns: Turns) -> None:
        self._turns = turns
        self._waiting: list[_Task] = []

    def __enter__(self) -> None:
        self._turns.may_switch()

    def __exit__(self, *_: object) -> None:
        pass

    def wait_for(self, holds: Callable[[], Any], timeout: float | None = None) -> Any:
        end_s = math.inf if timeout is None else self._turns.read() + timeout
        while not (result := holds()) and self._turns.read() < end_s:
            self._waiting.append(self._turns.task())
            self._turns.wait(end_s)
        return result

    def notify_all(self) -> None:
        for task in self._waiting:
            self._turns.wake(task)
        self._waiting.clear()


class Bells:
    """In the place of :class:`psdp.transport.bell.Bell` and who rings it."""

    def __init__(self, turns: Turns) -> None:
        self._turns = turns
        self._numbers = itertools.count()
        self._bells: dict[int, _Bell] = {}

    def new(self) -> _Bell:
        number = next(self._numbers)
        self._bells[number] = bell = _Bell(self._turns, number)
        return bell

    def ringer(self, card: Any) -> _Bell:
        return self._bells[card.file]


class _Bell:
    def __init__(self, turns: Turns, number: int) -> None:
        self._number = number
        self._changed = Condition(turns)
        self._rung = False

    def card(self) -> Any:
        from psdp.transport.bell import BellCard

        return BellCard(os.getpid(), self._number, "")

    def ring(self) -> None:
        self._rung = True
        self._changed.notify_all()

    def listen(self, timeout_s: float) -> bool:
        rung = bool(self._changed.wait_for(lambda: self._rung, timeout_s))
        self._rung = False
        return rung
