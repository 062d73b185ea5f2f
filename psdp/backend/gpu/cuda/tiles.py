"""Sizes that the CUDA sources share with who launches them; sources get them as macros."""

from __future__ import annotations

from typing import NamedTuple

WARP = 32
"""Threads that run in step."""

MOST_THREADS = WARP * WARP
"""Of a block: what is summed over a block is one number for each lane of a warp in between."""

MMA = 16
"""Rows, and terms, of a product on tensor cores."""


class Tile(NamedTuple):
    """How a block of threads attends: to rows of one size of head, in tiles in shared memory.

    Attributes:
        head: elements of a head's row.
        rows: of the block's own tile.
        walk: rows of the tiles that it walks through.
        threads: of the block.
        pitch: elements from one row of a tile to the next.
        shared_bytes: of all tiles that are in shared memory at once.
    """

    head: int
    rows: int
    walk: int
    threads: int
    pitch: int
    shared_bytes: int

    def definitions(self) -> dict[str, int]:
        """Return the macros of the sources."""
        return {
            "HEAD": self.head,
            "TILE_ROWS": self.rows,
            "WALK": self.walk,
            "THREADS": self.threads,
            "PITCH": self.pitch,
            "SHARED_BYTES": self.shared_bytes,
        }


def tensor_core_tile(head: int) -> Tile | None:
    """Return the tile of attention_mma.cu; None where it does not do heads of this size."""
    if head % MMA or head > 128:
        return None
    # A wide head leaves registers for half of a walked tile.
    walk = 32 if head > 64 else 64
    # Rows are padded, so that the lanes of a warp read from different banks.
    pitch = head + 8
    return Tile(head, 4 * MMA, walk, 4 * WARP, pitch, 2 * (2 * walk * pitch))


def plain_tile(head: int, itemsize: int, most_bytes: int) -> Tile:
    """Return the tile of attention.cu for numbers of ``itemsize`` bytes: of as many rows as fit
    into so much shared memory."""
    pitch = head + 1
    for rows in (32, 16, 8, 4):
        square = rows * (rows + 1)
        shared_bytes = itemsize * (4 * rows * pitch + 2 * square)
        if shared_bytes <= most_bytes:
            return Tile(head, rows, rows, 8 * rows, pitch, shared_bytes)
    raise AssertionError(f"a head of {head} fits into no block of this GPU")
