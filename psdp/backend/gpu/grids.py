"""Launch configurations: how work is cut into a grid of blocks of threads."""

from __future__ import annotations

from psdp.backend.gpu.cuda.tiles import MOST_THREADS, WARP

BLOCK = 256
"""Threads of a block of most kernels."""

MOST_BLOCKS = 4096
"""Of a kernel whose threads go on to further elements: enough to fill any GPU."""

CHUNKS = 256
"""Parts that a sum down the columns is taken in."""


class Columns:
    """How sums down the columns of (rows, width) are cut into parts."""

    def __init__(self, rows: int, width: int) -> None:
        self.rows, self.width = rows, width
        self.chunk = ceil(rows, CHUNKS)
        self.chunks = ceil(rows, self.chunk)
        self.block = block_for(width)
        self.grid = (ceil(width, self.block), self.chunks)


def ceil(count: int, size: int) -> int:
    return -(-count // size)


def warps(rows: int) -> tuple[int]:
    """Return a grid of blocks with a warp for each row."""
    return (ceil(rows, BLOCK // WARP),)


def block_for(width: int) -> int:
    """Return the threads that share a row: whole warps, few where it is short."""
    return min(MOST_THREADS, max(WARP, 1 << max(0, (width - 1).bit_length() - 2)))
