"""Orders of so many things that a list of all of them would be too long."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from psdp.params import Array

_ROUNDS = 8  # an even number, after which the two parts have their widths again


class Permutation:
    """A permutation of 0 .. size - 1, drawn by a key: each place of it is worked out by itself.

    A Feistel network (Luby and Rackoff 1988, "How to construct pseudorandom permutations") on as
    many bits as ``size`` takes, walked until it comes back to what is below it (Black and Rogaway
    2002, "Ciphers with arbitrary finite domains"): twice at most on average.
    """

    def __init__(self, size: int, key: Sequence[int]) -> None:
        """``key``: whole numbers, not negative; ``size``: at least 1."""
        bits = max(2, (size - 1).bit_length())
        self._size = np.uint64(size)
        self._widths = np.uint64(bits // 2), np.uint64(bits - bits // 2)
        rng = np.random.default_rng(key)
        self._keys = rng.integers(0, 1 << 64, _ROUNDS, dtype=np.uint64, endpoint=False)

    def __call__(self, places: Array) -> Array:
        """Return what stands at ``places`` (n,), which are below the size: (n,) int64."""
        at = self._once(places.astype(np.uint64))
        while (beyond := at >= self._size).any():
            at[beyond] = self._once(at[beyond])
        return at.astype(np.int64)

    def _once(self, x: Array) -> Array:
        width, other = self._widths
        left, right = x >> other, x & ((np.uint64(1) << other) - np.uint64(1))
        for key in self._keys:
            left, right = right, left ^ (mixed(right ^ key) >> (np.uint64(64) - width))
            width, other = other, width
        whole: Array = left << other | right
        return whole


def mixed(z: Array) -> Array:
    """Return 64 bits for each of 64 bits (n,) uint64, of which each depends on all: the last step
    of splitmix64, without two numbers that give the same."""
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    z ^= z >> np.uint64(31)
    return z
