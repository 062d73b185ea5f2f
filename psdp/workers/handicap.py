"""A worker that is slow on purpose, so that modes can be compared on equal machines.

A step is stretched by a factor of at least 1: the worker's own (``--straggler``), which may hold
for a while only, times one by chance (``--jitter``). Chance is a function of seed, worker and step,
so a run can be repeated.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

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
        # What numpy.random.default_rng((seed, worker, _STREAM, step)) draws, for half of its time.
        self._words = np.array([*_words(seed), worker, _STREAM, 0], np.uint32)
        slows = any(slowing.factor != 1 for slowing in self._slowings)
        self.acts = slows or jitter is not NO_JITTER

    def extra_s(self, step: int, took_s: float, begin_s: float) -> float:
        """Return the seconds to add to step number ``step``, which took so many by itself.

        Args:
            begin_s: when it began, in seconds of the run: it is slowed as a whole, or not at all.
        """
        if not self.acts:
            return 0.0
        factor = factor_at(self._slowings, step, begin_s) if self._slowings else 1.0
        if self._jitter is not NO_JITTER:
            self._words[-1] = step
            bits = np.random.PCG64(np.random.SeedSequence(self._words))
            factor *= self._jitter.draw(np.random.Generator(bits))
        return took_s * (factor - 1)


def _words(number: int) -> list[int]:
    """Return the 32-bit words of a number, the lowest first, as NumPy cuts a seed."""
    bits = max(1, number.bit_length())
    return [number >> lowest & 0xFFFFFFFF for lowest in range(0, bits, 32)]
