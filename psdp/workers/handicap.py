"""A worker that is slow on purpose, so that modes can be compared on equal machines.

A step is stretched by a factor of at least 1: the worker's own (``--straggler``), which may hold
for a while only, times one by chance (``--jitter``). Chance is a function of seed, worker and step,
so a run can be repeated.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from psdp.config.handicap import NO_JITTER, Jitter, Slowing, factor_at

_STREAM = 0x736C6F77
"""Tells these random numbers from others of the same seed."""


class Handicap:
    """How much longer than it took each step of one worker shall take.

    Args:
        worker: counted from 0, for the seed.

    Attributes:
        acts: whether any step takes longer.
    """

    def __init__(
        self,
        rank: int,
        worker: int,
        seed: int,
        *,
        stragglers: Mapping[int, Sequence[Slowing]],
        jitter: Jitter,
    ) -> None:
        self._slowings = stragglers.get(rank, ())
        self._jitter = jitter
        slows = any(slowing.factor != 1 for slowing in self._slowings)
        self.acts = slows or jitter is not NO_JITTER
        if jitter is not NO_JITTER:
            from psdp.workers.chance import Chance  # NumPy's part of it takes a while to load

            self._chance = Chance(seed, worker, _STREAM)

    def extra_s(self, step: int, took_s: float, begin_s: float) -> float:
        """Return the seconds to add to step number ``step``, which took so many by itself.

        Args:
            begin_s: when it began, in seconds of the run: it is slowed as a whole, or not at all.
        """
        if not self.acts:
            return 0.0
        factor = factor_at(self._slowings, step, begin_s) if self._slowings else 1.0
        if self._jitter is not NO_JITTER:
            factor *= self._jitter.draw(self._chance.at(step))
        return took_s * (factor - 1)
