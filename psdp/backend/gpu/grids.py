"""How work is cut into blocks of a GPU's threads."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from psdp.backend.arrays import Array
from psdp.backend.gpu.cuda import Source
from psdp.backend.gpu.device import Device

BLOCK = 256
"""Threads of a block of most kernels."""

MOST_BLOCKS = 4096
"""Of a kernel whose threads go on to further elements: enough to fill any GPU."""

CHUNKS = 256
"""Parts that a sum down the columns is taken in."""

TENSOR_ROWS = 64
"""Rows of a tile of attention on tensor cores."""


class Columns:
    """How sums down the columns of (rows, width) are cut into parts."""

    def __init__(self, rows: int, width: int) -> None:
        self.rows, self.width = rows, width
        self.chunk = ceil(rows, CHUNKS)
        self.chunks = ceil(rows, self.chunk)
        self.block = block_for(width)
        self.grid = (ceil(width, self.block), self.chunks)


class Tiles:
    """Which kernels attend to heads of this size, and in tiles of how many rows.

    Args:
        source: returns a file of kernels for a size of head and tile.
    """

    def __init__(
        self, device: Device, source: Callable[..., Source], qkv: Array, batch: int, heads: int
    ) -> None:
        self._device = device
        self.length, head = len(qkv) // batch, qkv.shape[1] // (3 * heads)
        self.scale = head**-0.5
        self._pairs = batch * heads
        if qkv.dtype == np.uint16 and head % 16 == 0 and head <= 128:
            walk = 32 if head > 64 else 64
            self._tile, self._threads = TENSOR_ROWS, 128
            self._shared = 2 * (2 * walk * (head + 8))  # two tiles of bfloat16, with padded rows
            self.source = source("attention_mma", head)
            return
        size = 8 if qkv.dtype == np.float64 else 4
        for tile in (32, 16, 8, 4):
            self._tile, self._threads = tile, 8 * tile
            self._shared = size * (4 * tile * (head + 1) + 2 * tile * (tile + 1))
            if self._shared <= self._device.shared_bytes:
                break
        else:
            raise AssertionError(f"a head of {head} fits into no block of this GPU")
        self.source = source("attention", head, tile)

    def launch(self, kernel: str, *arguments: Any) -> None:
        grid = (self._pairs, ceil(self.length, self._tile))
        self._device.launch(self.source, kernel, grid, self._threads, arguments, self._shared)


def ceil(count: int, size: int) -> int:
    return -(-count // size)


def warps(rows: int) -> tuple[int]:
    """Return a grid of blocks with a warp for each row."""
    return (ceil(rows, BLOCK // 32),)


def block_for(width: int) -> int:
    """Return the threads that share a row: whole warps, few where it is short."""
    return min(1024, max(32, 1 << max(0, (width - 1).bit_length() - 2)))
