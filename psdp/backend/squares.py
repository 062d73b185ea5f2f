"""The size of a gradient, whether it is finite, and the coefficient that limits it.

A gradient is cut into blocks at fixed places of the whole vector, and a server's shard is whole
blocks of it. The squares of a block are summed by whoever has it, in one way; the blocks' sums are
added exactly. So the size has the same bits however many servers have the gradient in shards, and
in whatever order they speak. Nothing here writes to a gradient; the update rules apply the
coefficient on the fly.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

import numpy as np

from psdp.params import Array

BLOCK = 8 * 1024
"""The elements of the largest block, which is one dot product: below the 10 000 from which OpenBLAS
splits it over threads, so that the sum has the same bits for every number of threads."""

# Stands for a finite sum beyond float64, and leaves room to add up 2^23 blocks of it.
_LARGEST = 2.0**1000


def sum_of_squares(vector: Array) -> float:
    """Return the sum of the squares of ``vector`` (P,); NaN or Inf only if it holds NaN or Inf."""
    return math.fsum(block_squares(vector, BLOCK))


def block_squares(vector: Array, block: int) -> Array:
    """Return the sum of the squares of each ``block`` elements of ``vector`` (P,), and of the rest:
    (N,) float64; NaN or Inf only where it holds NaN or Inf.

    They are summed in the vector's own precision, at most :data:`BLOCK` of them, so what the sums
    of a float32 vector of any length come to is right to ~1e-6. A block that overflows is summed
    again with care; what is beyond float64 even so (elements around 1e150) counts as 2^1000.
    """
    whole = vector.size - vector.size % block
    rows, rest = vector[:whole].reshape(-1, block), vector[whole:]
    sums = np.empty(len(rows) + (rest.size > 0))
    with np.errstate(over="ignore", invalid="ignore"):
        sums[: len(rows)] = np.vecdot(rows, rows)
        if rest.size:
            sums[-1] = np.dot(rest, rest)
    for index in np.flatnonzero(~(sums <= _LARGEST)):
        sums[index] = _sum_of_large_squares(vector[index * block :][:block])
    return sums


def _sum_of_large_squares(block: Array) -> float:
    largest = float(np.abs(block).max())
    if not math.isfinite(largest):
        return largest
    scaled = block / np.float64(largest)
    norm = math.sqrt(np.dot(scaled, scaled)) * largest
    return norm * norm if norm < math.sqrt(_LARGEST) else _LARGEST


def few_with_the_sum_of(terms: Iterable[float]) -> tuple[float, ...]:
    """Return as few numbers as have exactly the sum of ``terms``, the largest first: what it is as
    a float, and what that leaves out (Shewchuk 1997)."""
    rest = list(terms)
    few: list[float] = []
    while (total := math.fsum(rest)) or not few:
        few.append(total)
        rest.append(-total)
        if not math.isfinite(total):
            break
    return tuple(few)


def norm_of(squares: Iterable[float]) -> float:
    """Return the root of the sum of ``squares``, which is the same in any order of them."""
    return math.sqrt(math.fsum(squares))


def clip_coefficient(norm: float, limit: float) -> float:
    """Return min(1, limit / norm), the coefficient that keeps a gradient's norm within ``limit``
    (Pascanu et al. 2012, arXiv:1211.5063); a limit of 0 is none.

    1e-6 is added to the norm, as PyTorch does. NaN gives NaN and Inf gives 0: check the norm first.
    """
    if not limit:
        return 1.0
    coefficient = limit / (norm + 1e-6)
    return 1.0 if coefficient > 1.0 else coefficient
