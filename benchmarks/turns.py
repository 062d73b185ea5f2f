"""Processes that train by turns, so that whatever slows the machine for a while slows all of them.

Each side lives in a process of its own, where thread pools and allocators of others are not, and
is pinned to its cores. While one takes its turn the others sleep.
"""

from __future__ import annotations

import multiprocessing
import os
import time
import traceback
from collections.abc import Callable, Collection
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from training import Side, Size, batches

WARMUP_STEPS = 2
PATIENCE_S = 900.0
"""How long a turn may last; the first compiles."""


@dataclass(frozen=True)
class Turn:
    """The seconds that some steps took, and their losses."""

    seconds: float
    losses: list[float]


class SideFailed(Exception):
    """A side cannot take its turn: why, in a line, and its traceback."""

    def __init__(self, why: str, details: str = "") -> None:
        super().__init__(why, details)
        self.why, self.details = why, details

    def __str__(self) -> str:
        return self.details or self.why

    @classmethod
    def from_exception(cls, error: Exception) -> SideFailed:
        (why, *_) = "".join(traceback.format_exception_only(error)).splitlines()
        return cls(why, "".join(traceback.format_exception(error)))


def serve(make: Callable[[], Side], size: Size, cores: Collection[int], pipe: Connection) -> None:
    """Run in a process of its own: build the side, answer with its facts; for each number received
    take so many steps and answer with a :class:`Turn`; at 0 answer with the peak of its memory."""
    try:
        side, data = make(), batches(size)
        pipe.send(side.facts)
        while count := pipe.recv():
            inputs = [next(data) for _ in range(count)]
            start = time.perf_counter()
            losses = [side.step(tokens, targets) for tokens, targets in inputs]
            pipe.send(Turn(time.perf_counter() - start, losses))
            # Compilers, which work in the first turn, may use all cores.
            os.sched_setaffinity(0, cores)
        pipe.send(side.peak() if side.peak else peak_bytes())
    except Exception as error:
        pipe.send(SideFailed.from_exception(error))


def peak_bytes() -> int:
    """Return the most memory that this process had resident so far.

    Not ``ru_maxrss``: that of a process which is started anew begins at its parent's.
    """
    status = Path("/proc/self/status").read_text()
    (line,) = (line for line in status.splitlines() if line.startswith("VmHWM:"))
    return 1024 * int(line.split()[1])


class Runner:
    """A side's process, which trains on command.

    Args:
        make: builds the side, in that process: a function of a module, or a partial of one.
        cores: that it may run on, once its first turn is over.

    Attributes:
        facts: what the side says of itself.
        seconds: of a step, one number for each timed turn.
        losses: of all steps.
        peak_bytes: of its memory, once stopped.

    Raises:
        SideFailed: on building it, or in any turn.
    """

    def __init__(self, make: Callable[[], Side], size: Size, cores: Collection[int]) -> None:
        context = multiprocessing.get_context("spawn")
        self._pipe, far_end = context.Pipe()
        # A daemon: if this process fails, the side goes too instead of waiting for ever.
        self._process = context.Process(
            target=serve, args=(make, size, cores, far_end), daemon=True
        )
        self._process.start()
        far_end.close()
        self.seconds: list[float] = []
        self.losses: list[float] = []
        self.peak_bytes = 0
        self.facts: dict[str, Any] = self._answer()

    def warm_up(self) -> None:
        """Take the first steps, whose time does not count."""
        self._take(WARMUP_STEPS)

    def take(self, steps: int) -> None:
        """Take a timed turn."""
        self.seconds.append(self._take(steps) / steps)

    def stop(self) -> None:
        """End the process."""
        self._pipe.send(0)
        self.peak_bytes = self._answer()
        self._process.join(PATIENCE_S)

    def _take(self, steps: int) -> float:
        self._pipe.send(steps)
        turn: Turn = self._answer()
        self.losses += turn.losses
        return turn.seconds

    def _answer(self) -> Any:
        if not self._pipe.poll(PATIENCE_S):
            raise SideFailed(f"no answer in {PATIENCE_S:g} s")
        try:
            answer = self._pipe.recv()
        except EOFError:
            raise SideFailed("the process ended; what it printed is above") from None
        if isinstance(answer, SideFailed):
            raise answer
        return answer


def take_turns(runners: list[Runner], rounds: int, steps: int) -> None:
    """Give each a timed turn in every round; who goes first moves on from round to round."""
    for number in range(rounds):
        first = number % len(runners)
        for runner in runners[first:] + runners[:first]:
            runner.take(steps)
