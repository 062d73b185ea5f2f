"""Random numbers of single steps, so that any of them can be drawn alone, and again.

A generator is seeded for each step, and the seeds of many steps are worked out at once: NumPy's own
way takes ten times as long, half of what simulating a step does.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

AT_ONCE = 128
"""Steps whose seeds are worked out together."""

Words = npt.NDArray[Any]
"""Of 32 bits each (uint32)."""

_MASK, _SHIFT, _POOL = 0xFFFFFFFF, 16, 4
_MIX_LEFT, _MIX_RIGHT = 0xCA01F9DD, 0x4973F715


class Chance:
    """The generators ``numpy.random.default_rng((seed, *numbers, step))`` of each step.

    Args:
        numbers: below 2^32.
    """

    def __init__(self, seed: int, *numbers: int) -> None:
        self._words = *_words(seed), *numbers
        self._seeds = _Seeds()
        self._first = -AT_ONCE
        self._states: npt.NDArray[np.uint64]

    def at(self, step: int) -> np.random.Generator:
        """Return the generator of a step, below 2^32."""
        offset = step - self._first
        if not 0 <= offset < AT_ONCE:
            self._first = step - (offset := step % AT_ONCE)
            steps = np.arange(self._first, self._first + AT_ONCE, dtype=np.uint32)
            self._states = states(self._words, steps)
        self._seeds.known = self._states[offset]
        return np.random.Generator(np.random.PCG64(self._seeds))


class _Seeds(np.random.SeedSequence):
    """Hands over a state that is known: the four words of 64 bits that PCG64 asks for."""

    known: npt.NDArray[np.uint64]

    def generate_state(self, n_words: int, dtype: Any = np.uint32) -> npt.NDArray[Any]:
        return self.known


def states(words: Sequence[int], last: Words) -> npt.NDArray[np.uint64]:
    """Return ``numpy.random.SeedSequence((*words, n)).generate_state(4, numpy.uint64)`` of each n
    of ``last`` (N,): (N, 4). By the hash of O'Neill 2015 that SeedSequence is specified by."""
    entropy = np.zeros((max(_POOL, len(words) + 1), last.size), np.uint32)
    entropy[: len(words)] = np.array(words, np.uint32)[:, None]
    entropy[len(words)] = last
    hashed = _Hash(0x43B0D7E5, 0x931E8875)
    pool = hashed(entropy[:_POOL])
    for source in range(_POOL):
        others = [at for at in range(_POOL) if at != source]
        pool[others] = _mixed(pool[others], hashed(pool[[source] * len(others)]))
    for more in entropy[_POOL:]:
        pool = _mixed(pool, hashed(np.stack([more] * _POOL)))
    halves = _Hash(0x8B51F9DD, 0x58F38DED)(np.concatenate([pool, pool])).astype(np.uint64)
    return (halves[::2] | halves[1::2] << np.uint64(32)).T.copy()


class _Hash:
    """A hash of words whose constant is another one each time."""

    def __init__(self, first: int, factor: int) -> None:
        self._constant, self._factor = first, factor

    def __call__(self, rows: Words) -> Words:
        """Return the hashes of rows (R, N), one row after the other."""
        constants = [self._constant]
        for _ in rows:
            constants.append(constants[-1] * self._factor & _MASK)
        self._constant = constants[-1]
        of = np.array(constants, np.uint32)[:, None]
        return _folded((rows ^ of[:-1]) * of[1:])


def _mixed(ones: Words, others: Words) -> Words:
    return _folded(_MIX_LEFT * ones - _MIX_RIGHT * others)


def _folded(rows: Words) -> Words:
    rows ^= rows >> _SHIFT
    return rows


def _words(number: int) -> list[int]:
    """Return the 32-bit words of a number, the lowest first, as NumPy cuts a seed."""
    bits = max(1, number.bit_length())
    return [number >> lowest & _MASK for lowest in range(0, bits, 32)]
