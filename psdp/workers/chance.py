"""Random numbers of single steps, so that any of them can be drawn alone, and again.

A generator is seeded for each step, and the seeds of many steps are worked out at once: NumPy's own
way takes ten times as long, half of what simulating a step does.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import chain, repeat
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
    """Hands over a state that is known."""

    known: npt.NDArray[np.uint64]

    def generate_state(self, n_words: int, dtype: Any = np.uint32) -> npt.NDArray[Any]:
        assert (n_words, dtype) == (len(self.known), self.known.dtype)
        return self.known


def states(words: Sequence[int], last: Words) -> npt.NDArray[np.uint64]:
    """Return ``numpy.random.SeedSequence((*words, n)).generate_state(4, numpy.uint64)`` of each n
    of ``last`` (N,): (N, 4). By the hash of O'Neill 2015 that SeedSequence is specified by."""
    entropy = [*(np.array([word], np.uint32) for word in words), last]
    entropy += [np.zeros(1, np.uint32)] * (_POOL - len(entropy))
    hashed = _hash(0x43B0D7E5, 0x931E8875)
    pool = [hashed(word) for word in entropy[:_POOL]]
    for source in range(_POOL):
        for to in range(_POOL):
            if to != source:
                pool[to] = _mixed(pool[to], hashed(pool[source]))
    for word in entropy[_POOL:]:
        pool = [_mixed(own, hashed(word)) for own in pool]
    hashed = _hash(0x8B51F9DD, 0x58F38DED)
    halves = [hashed(word).astype(np.uint64) for word in chain.from_iterable(repeat(pool, 2))]
    whole = [low | high << 32 for low, high in zip(halves[::2], halves[1::2], strict=True)]
    return np.stack(whole, axis=-1)


def _hash(first: int, factor: int) -> Callable[[Words], Words]:
    """Return a hash of words whose constants are others at each call."""

    def constants() -> Iterator[tuple[int, int]]:
        own = first
        while True:
            before, own = own, own * factor & _MASK
            yield before, own

    of = constants()

    def hashed(words: Words) -> Words:
        before, after = next(of)
        words = (words ^ before) * after
        return words ^ words >> _SHIFT

    return hashed


def _mixed(one: Words, other: Words) -> Words:
    words: Words = _MIX_LEFT * one - _MIX_RIGHT * other
    words ^= words >> _SHIFT
    return words


def _words(number: int) -> list[int]:
    """Return the 32-bit words of a number, the lowest first, as NumPy cuts a seed."""
    bits = max(1, number.bit_length())
    return [number >> lowest & _MASK for lowest in range(0, bits, 32)]
