"""Stale-bounded and asynchronous: every push is applied on arrival."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping

from psdp.protocol.events import Apply, Effect, Push
from psdp.protocol.policy import Policy


class StaleBounded(Policy):
    """No worker goes on while more than ``staleness`` clocks ahead of the slowest live one.

    Stale synchronous parallel (Ho et al. 2013, "More Effective Distributed ML via a Stale
    Synchronous Parallel Parameter Server"). ``staleness=0`` is lock-step.
    """

    def __init__(
        self,
        workers: Iterable[int],
        pushes: int | None = None,
        *,
        staleness: float,
        version: int = 0,
        clocks: Mapping[int, int] | None = None,
    ) -> None:
        self.staleness = staleness
        super().__init__(workers, pushes, version=version, clocks=clocks)

    def _accept(self, push: Push) -> list[Effect]:
        lag = self.version - push.version
        self.version += 1
        return [Apply((push.slot,), (1.0,), push.tokens, (lag,), self.version)]

    def _may_go(self, rank: int) -> bool:
        return self._lead(rank) <= self.staleness


class Asynchronous(StaleBounded):
    """Every push is answered at once: stale-bounded without a bound (Hogwild's server form)."""

    def __init__(
        self,
        workers: Iterable[int],
        pushes: int | None = None,
        *,
        version: int = 0,
        clocks: Mapping[int, int] | None = None,
    ) -> None:
        super().__init__(workers, pushes, staleness=math.inf, version=version, clocks=clocks)
