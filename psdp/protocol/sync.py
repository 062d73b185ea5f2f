"""Synchronous rounds: one gradient of every live worker, one update."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

from psdp.protocol.events import Apply, Effect, Push, Work, some_of
from psdp.protocol.policy import Policy


class Synchronous(Policy):
    """A round closes when every gradient that was asked for is in.

    They are averaged weighted by the units that count, and in the order of the workers, so that a
    run repeats bit for bit.
    A worker that dies after its push still counts in the round; one that dies before does not.

    With ``local_steps`` H a round is H steps of every worker on its own, and the average one of
    what these changed (local SGD, Stich 2018, arXiv:1805.09767; DiLoCo, arXiv:2311.08105), or fewer
    of a slower one if it is ``paced``. What is left of the budget at the end is shared out evenly.

    With ``backup_workers`` B a round goes on with the first W - B gradients, W being the workers at
    the start, and what comes later is dropped (Chen et al. 2016, arXiv:1604.00981). Whoever died
    was a backup.

    Args:
        common: as of every :class:`Policy`.
    """

    def __init__(
        self,
        workers: Iterable[int],
        budget: int | None = None,
        *,
        backup_workers: int = 0,
        **common: Any,
    ) -> None:
        known = list(workers)
        assert 0 <= backup_workers < len(known) or not known
        assert common.get("local_steps", 1) == 1 or not backup_workers
        self._backups = backup_workers
        self._wanted = len(known) - backup_workers
        self._round: dict[int, Push] = {}
        super().__init__(known, budget, **common)

    def _accept(self, push: Push) -> list[Effect]:
        self._round[push.worker] = push
        return self._close()

    def _too_late(self, work: Work) -> bool:
        return self._backups > 0 and (work.version < self.version or self._budget == 0)

    def _wait(self, worker: int) -> None:
        if worker not in self._round:  # else it is let go with the others, when the round closes
            super()._wait(worker)

    def _may_go(self, lead: int) -> bool:
        # Whose gradient was dropped has a chance yet in the round that is under way.
        return not self._round or self._backups > 0

    def _settle(self) -> list[Effect]:
        return self._close()

    def _idle(self) -> bool:
        return not self._round

    def _steps_for(self, worker: int, left: float) -> int:
        share = left / max(1, len(self.clocks) - len(self._granted))
        wanted = self._round_steps(worker, left)
        return int(wanted) if share >= wanted else math.ceil(share)

    def _round_steps(self, worker: int, left: float) -> float:
        """Return how many steps of this worker a round has, if the budget allows."""
        return super()._steps_for(worker, left)

    def _updates(self, steps: int) -> int:
        """Return the updates that a round of so many steps makes."""
        return 1

    def _left(self) -> float:
        if self._backups:
            return math.inf if self._budget is None else self._budget
        return super()._left()

    def _at_rest(self) -> bool:
        if self._backups and self._budget == 0:
            return self._idle()  # what is still out would be dropped
        return super()._at_rest()

    def _complete(self) -> bool:
        """Say whether the gradients of this round are all that it will have."""
        if not self._granted or (self._budget == 0 and self._backups):
            return True
        return self._backups > 0 and len(self._round) >= self._wanted

    def _close(self) -> list[Effect]:
        if not self._round or not self._complete():
            return []
        pushes = [self._round[worker] for worker in sorted(self._round)]
        self._round.clear()
        for push in pushes:
            if push.worker in self.clocks:
                self._wait(push.worker)
        works = [push.work for push in pushes]
        units, counted = sum(work.units for work in works), sum(work.weight for work in works)
        lags = tuple(self.version - work.version for work in works)
        self.version += self._updates(works[0].steps)
        return [
            Apply(
                slots=tuple(push.slot for push in pushes),
                weights=tuple(work.weight / counted for work in works),
                units=units,
                lags=lags,
                version=self.version,
                counted=some_of(units, counted),
            )
        ]
