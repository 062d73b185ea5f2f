"""How a long flat vector is walked in pieces that stay in the L2 cache.

Every pass of an update rule then finds its operands in the cache instead of in main memory.
Element-wise rules give the same bits wherever the cuts lie.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

# Adam's passes work on two or three vectors at a time, which fit in an L2 of 512 KiB at this size.
# Half of it is 10 % slower there (calling NumPy shows), whole vectors 40 % (memory does).
BLOCK_BYTES = {"cpu": 128 * 1024, "gpu": 16 * 2**20}
"""By kind of device. A GPU's caches hold little; what costs there is a launch."""


def block_size(dtype: npt.DTypeLike, device: str = "cpu") -> int:
    """Return the elements of ``dtype`` in one block."""
    return BLOCK_BYTES[device] // np.dtype(dtype).itemsize


def blocks(start: int, stop: int, size: int) -> Iterator[slice]:
    """Yield consecutive slices of at most ``size`` elements that cover [start, stop)."""
    for begin in range(start, stop, size):
        yield slice(begin, min(begin + size, stop))
