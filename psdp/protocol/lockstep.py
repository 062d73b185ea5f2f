"""Workers that take every step together, by themselves."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

from psdp.protocol.sync import Synchronous


class Lockstep(Synchronous):
    """Rounds of many steps, of which each is an update: a version counts steps.

    Every worker makes the same updates, since they reduce their gradients among themselves. A round
    ends with the next step that is a multiple of one of ``meetings``, or with the budget; then
    they hand over what they reached. A worker that leaves is not made up for: the others cannot
    go on without it.
    """

    def __init__(
        self,
        workers: Iterable[int],
        budget: int | None = None,
        *,
        meetings: Iterable[int] = (),
        **common: Any,
    ) -> None:
        self._meetings = tuple(meetings)
        assert self._meetings or budget is not None, "a round must end"
        super().__init__(workers, budget, **common)

    def _round_steps(self, worker: int, left: float) -> float:
        clock = self.clocks[worker]
        return min((every - clock % every for every in self._meetings), default=math.inf)

    def _updates(self, steps: int) -> int:
        return steps
