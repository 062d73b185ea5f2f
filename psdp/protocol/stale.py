"""Stale-bounded and asynchronous: every push is applied on arrival."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

from psdp.protocol.events import Apply, Effect, Push
from psdp.protocol.policy import Policy


class StaleBounded(Policy):
    """No worker goes on while more than ``staleness`` clocks ahead of the slowest live one.

    Stale synchronous parallel (Ho et al. 2013, "More Effective Distributed ML via a Stale
    Synchronous Parallel Parameter Server"). ``staleness=0`` is lock-step. With ``inverse_lag`` a
    gradient that is L > 1 versions late moves the weights by an L-th (Zhang et al. 2015,
    arXiv:1511.05950).

    Args:
        common: as of every :class:`Policy`.
    """

    def __init__(
        self,
        workers: Iterable[int],
        budget: int | None = None,
        *,
        staleness: float,
        inverse_lag: bool = False,
        **common: Any,
    ) -> None:
        self.staleness = staleness
        self._inverse_lag = inverse_lag
        super().__init__(workers, budget, **common)

    def _accept(self, push: Push) -> list[Effect]:
        lag = self.version - push.work.version
        self.version += 1
        rate = 1 / max(1, lag) if self._inverse_lag else 1.0
        work = push.work
        return [Apply((push.slot,), (1.0,), work.units, (lag,), self.version, rate, work.counted)]

    def _may_go(self, lead: int) -> bool:
        return lead <= self.staleness


class Asynchronous(StaleBounded):
    """Every push is answered at once: stale-bounded without a bound (Hogwild's server form).

    With ``local_steps`` H a worker pushes after H steps on its own, a slower one after fewer if it
    is ``paced``.
    """

    def __init__(self, workers: Iterable[int], budget: int | None = None, **common: Any) -> None:
        super().__init__(workers, budget, staleness=math.inf, **common)
