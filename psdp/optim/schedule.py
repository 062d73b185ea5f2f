"""The learning rate as a function of the units already processed."""

from __future__ import annotations

import math
from typing import Protocol


class ScheduleSettings(Protocol):
    """The highest learning rate and what becomes of it."""

    @property
    def lr(self) -> float | None: ...
    @property
    def min_lr(self) -> float | None: ...
    @property
    def lr_schedule(self) -> str: ...
    @property
    def warmup_steps(self) -> int | None: ...


class Schedule:
    """Linear warm-up, then the shape that ``--lr-schedule`` names.

    Progress counts in steps of the budget: units processed before this update / units of
    one full step. It is fractional in async and ssp, where an update brings one worker's units.
    """

    def __init__(self, config: ScheduleSettings, max_steps: int) -> None:
        assert config.lr is not None, "the schedule needs a resolved configuration"
        assert config.min_lr is not None, "the schedule needs a resolved configuration"
        assert config.warmup_steps is not None, "the schedule needs a resolved configuration"
        self._shape = config.lr_schedule
        self._highest, self._lowest = config.lr, config.min_lr
        self._warmup, self._end = config.warmup_steps, max_steps

    def lr(self, steps: float) -> float:
        """Return the learning rate of an update made after ``steps`` steps' worth of units.

        The warm-up rises from lr / (warmup + 1) and reaches lr after ``warmup`` steps. ``linear``
        and ``cosine`` (arXiv:1608.03983, without restarts) fall from there to min_lr at the end of
        the budget and stay; ``inverse-sqrt`` (arXiv:1706.03762) falls to min_lr at its own pace.
        """
        highest, lowest, warmup = self._highest, self._lowest, self._warmup
        if steps < warmup:
            return highest * (steps + 1) / (warmup + 1)
        if self._shape == "constant":
            return highest
        if self._shape == "inverse-sqrt":
            unit = max(warmup, 1)
            return max(lowest, highest * math.sqrt(unit / (unit + steps - warmup)))
        if steps >= self._end:
            return lowest
        progress = (steps - warmup) / (self._end - warmup)
        if self._shape == "linear":
            return highest + (lowest - highest) * progress
        assert self._shape == "cosine", self._shape
        return lowest + (highest - lowest) * (1 + math.cos(math.pi * progress)) / 2
