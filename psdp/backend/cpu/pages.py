"""Host memory on large pages.

The processor remembers where a few thousand pages lie. Kernels walk through hundreds of megabytes
with large strides, so with pages of 4 KiB they wait for addresses; a page of 2 MiB stands for 512
of them. benchmarks/compute.py shows what that gives.
"""

from __future__ import annotations

import math
import mmap
from typing import Any

import numpy as np

from psdp.params import Array

LARGE_PAGE = 2**21
SLAB = 16 * LARGE_PAGE
LEAST = 2**14
"""Smaller arrays, in bytes, come from where NumPy takes them."""
LINE = 64


class LargePages:
    """Cuts arrays from slabs of memory that the kernel is asked to back with large pages.

    An array keeps its slab alive; memory within a slab is not used again.
    """

    def __init__(self) -> None:
        self._slab: Array = np.empty(0, np.uint8)

    def zeros(self, shape: tuple[int, ...], dtype: Any) -> Array:
        """Return zeros; memory that is not written yet takes no space."""
        dtype = np.dtype(dtype)
        size = math.prod(shape) * dtype.itemsize
        if size < LEAST or not hasattr(mmap, "MADV_HUGEPAGE"):
            return np.zeros(shape, dtype)
        if size > self._slab.size:
            self._slab = _slab(max(size, SLAB))
        array: Array = self._slab[:size].view(dtype).reshape(shape)
        self._slab = self._slab[-(-size // LINE) * LINE :]
        return array


def _slab(size: int) -> Array:
    """Return at least ``size`` bytes of zeros that begin on a large page."""
    size = -(-size // LARGE_PAGE) * LARGE_PAGE
    memory = mmap.mmap(-1, size + LARGE_PAGE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    memory.madvise(mmap.MADV_HUGEPAGE)
    slab: Array = np.frombuffer(memory, np.uint8)
    start = -slab.ctypes.data % LARGE_PAGE
    return slab[start : start + size]
