"""The size of a gradient, whether it is finite, and the coefficient that clips it.

Of a gradient that servers have in shards each sends its sum of squares, the sums are added, and
every server derives the same coefficient. Nothing here writes to a gradient; the update rules apply
the coefficient on the fly.
"""

from __future__ import annotations

import math

import numpy as np

from psdp.params import Array

# One dot product. Below the 10 000 elements from which OpenBLAS splits it over threads, so that
# the sum has the same bits for every number of threads.
_ROW = 8 * 1024

# Stands for a finite sum beyond float64, and leaves room to add up a million shards of it.
_LARGEST = 2.0**1000


def sum_of_squares(vector: Array) -> float:
    """Return the sum of the squares of ``vector`` (P,); NaN or Inf only if it holds NaN or Inf.

    Rows are summed in the vector's own precision and added in float64, so a float32 vector of any
    length comes out to ~1e-6. If a row overflows, all is summed again with care; what is beyond
    float64 even so (elements around 1e150) counts as 2^1000.
    """
    whole = vector.size - vector.size % _ROW
    rows, rest = vector[:whole].reshape(-1, _ROW), vector[whole:]
    with np.errstate(over="ignore", invalid="ignore"):
        total = float(np.vecdot(rows, rows).sum(dtype=np.float64)) + float(np.dot(rest, rest))
    return min(total, _LARGEST) if math.isfinite(total) else _sum_of_large_squares(vector)


def _sum_of_large_squares(vector: Array) -> float:
    total = 0.0
    for start in range(0, vector.size, _ROW):
        part = vector[start : start + _ROW]
        largest = float(np.abs(part).max())
        if not math.isfinite(largest):
            return largest
        if largest > 0:
            scaled = part / np.float64(largest)
            norm = math.sqrt(np.dot(scaled, scaled)) * largest
            total += norm * norm if norm < math.sqrt(_LARGEST) else _LARGEST
    return min(total, _LARGEST)


def clip_coefficient(norm: float, limit: float) -> float:
    """Return min(1, limit / norm), the coefficient that keeps a gradient's norm within ``limit``
    (Pascanu et al. 2012, arXiv:1211.5063); a limit of 0 is none.

    1e-6 is added to the norm, as PyTorch does. NaN gives NaN and Inf gives 0: check the norm first.
    """
    if not limit:
        return 1.0
    coefficient = limit / (norm + 1e-6)
    return 1.0 if coefficient > 1.0 else coefficient
