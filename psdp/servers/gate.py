"""What a server tells of its shard, held back until who stands by for it knows as much."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class _Held:
    """What is done when so many answers are followed."""

    answers: int
    act: Callable[[], object]
    is_answer: bool


class Gate:
    """Lets out what tells of decisions when the standby has done what was decided before. Both do
    so in one order, in which answers count as marks.

    Args:
        closed: there is a standby; without one all is let out at once.
    """

    def __init__(self, *, closed: bool) -> None:
        self._closed = closed
        self._answers = self._followed = 0
        self._held: deque[_Held] = deque()

    def answer(self, send: Callable[[], object], *, at_once: bool = False) -> None:
        """Send an answer when the standby has come as far, or at once."""
        self._answers += 1
        if at_once:
            send()
        else:
            self._hold(_Held(self._answers, send, is_answer=True))

    def hold(self, act: Callable[[], object]) -> None:
        """Do this when the standby has come to the next answer."""
        self._hold(_Held(self._answers + 1, act, is_answer=False))

    def followed(self, answers: int) -> None:
        """The standby has come past so many answers."""
        self._followed = answers
        while self._held and self._held[0].answers <= answers:
            self._held.popleft().act()

    def open(self) -> None:
        """Let out all that is held, and wait for nobody any more."""
        self._closed = False
        while self._held:
            self._held.popleft().act()

    def settle(self) -> None:
        """Do all that is held but answers, which nobody waits for any more."""
        self._held = deque(held for held in self._held if not held.is_answer)
        self.open()

    def _hold(self, held: _Held) -> None:
        if self._closed and held.answers > self._followed:
            self._held.append(held)
        else:
            held.act()
