"""The reference backend: NumPy on one CPU core or, through BLAS threads, on several."""

from __future__ import annotations

from typing import Any

import numpy as np

from psdp.backend.base import Backend
from psdp.backend.cpu.pages import LargePages
from psdp.params import Array


class NumpyBackend(Backend):
    """NumPy arrays; OpenBLAS does the products."""

    name = "cpu"
    kernels = "numpy"
    xp = np

    def __init__(self, dtype: str) -> None:
        self._pages = LargePages()
        super().__init__(dtype)
        # Half of a 512 KiB L2 cache. Smaller tiles miss less, but each operation costs a call.
        self.tile = 2**18 // self.dtype.itemsize
        # Fewer queries would skip more of the masked half, but in smaller, slower products.
        self.query_block = 128

    def zeros(self, *shape: int, dtype: Any = None) -> Array:
        return self._pages.zeros(shape, self.dtype if dtype is None else dtype)

    def copy(self, source: Array, out: Array) -> None:
        np.copyto(out, source)

    def to_device(self, host: Array, out: Array) -> None:
        np.copyto(out, host)

    def to_host(self, device: Array, out: Array) -> None:
        np.copyto(out, device)

    def synchronize(self) -> None:
        pass

    def row_dots(self, a: Array, b: Array, out: Array) -> None:
        np.vecdot(a, b, out=out)

    def embed(
        self,
        table: Array,
        ids: Array,
        scale: float,
        positions: Array | None,
        length: int,
        out: Array,
    ) -> None:
        _take_rows(table, ids, out)
        if scale != 1.0:
            out *= scale
        if positions is not None:
            per_sequence = out.reshape(-1, length, out.shape[1])
            per_sequence += positions

    def scatter_add(self, ids: Array, rows: Array, scale: float, table: Array) -> None:
        if scale != 1.0:
            rows *= scale
        # Equal ids become neighbours, each run is summed, and then every id occurs once: a fixed
        # order of additions, which np.add.at would give too but an element at a time.
        order = np.argsort(ids, kind="stable")
        sorted_ids = ids[order]
        starts = np.flatnonzero(np.diff(sorted_ids, prepend=-1))
        gathered = self.scratch(0, *rows.shape)
        _take_rows(rows, order, gathered)
        sums = self.scratch(1, starts.size, rows.shape[1])
        np.add.reduceat(gathered, starts, axis=0, out=sums)
        unique = sorted_ids[starts]
        for block in self.blocks(*sums.shape):
            table[unique[block]] += sums[block]

    def draw_mask(self, rng: np.random.Generator, p: float, room: Array, size: int) -> Array:
        mask = room[:size]
        rng.random(dtype=mask.dtype, out=mask)
        for block in self.blocks(size, 1):
            np.greater_equal(mask[block], p, out=mask[block])
            np.multiply(mask[block], 1 / (1 - p), out=mask[block])
        return mask


def _take_rows(table: Array, ids: Array, out: Array) -> None:
    # The default mode, "raise", would take a buffer as large as ``out``.
    np.take(table, ids, axis=0, out=out, mode="clip")
