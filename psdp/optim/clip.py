"""The factor that limits the norm of a gradient.

The norm is over all shards: each server sends its sum of squares, the sums are added, and every
server derives the same factor. Nothing here writes to a gradient; the update rules apply the
factor on the fly.
"""

from __future__ import annotations


def clip_factor(norm: float, limit: float) -> float:
    """Return min(1, limit / norm), the factor that keeps a gradient's norm within ``limit``
    (Pascanu et al. 2012, arXiv:1211.5063); a limit of 0 is none.

    1e-6 is added to the norm, as PyTorch does. NaN gives NaN and Inf gives 0: check the norm first.
    """
    if not limit:
        return 1.0
    factor = limit / (norm + 1e-6)
    return 1.0 if factor > 1.0 else factor
