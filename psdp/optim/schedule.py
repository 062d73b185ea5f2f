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
    @property
    def decay_fraction(self) -> float: ...
    @property
    def decay_shape(self) -> str: ...


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
        self._stable = max(self._warmup, max_steps * (1.0 - config.decay_fraction))
        self._root = config.decay_shape == "1-sqrt"

    def lr(self, steps: float) -> float:
        """Return the learning rate of an update made after ``steps`` steps' worth of units.

        The warm-up rises from lr / (warmup + 1) and reaches lr after ``warmup`` steps. ``linear``
        and ``cosine`` (arXiv:1608.03983, without restarts) fall from there to min_lr at the end of
        the budget and stay; ``inverse-sqrt`` (arXiv:1706.03762) falls to min_lr at its own pace.
        ``wsd`` (warm-up, stable, decay: arXiv:2404.06395) stays at lr, and falls to min_lr in the
        last ``decay_fraction`` of the budget: linearly, or as 1 - sqrt(progress) does
        (arXiv:2405.18392).
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
        begin = self._stable if self._shape == "wsd" else warmup
        if steps < begin:
            return highest
        progress = (steps - begin) / (self._end - begin)
        if self._shape == "wsd" and self._root:
            progress = math.sqrt(progress)
        if self._shape in ("linear", "wsd"):
            return highest + (lowest - highest) * progress
        assert self._shape == "cosine", self._shape
        return lowest + (highest - lowest) * (1 + math.cos(math.pi * progress)) / 2
