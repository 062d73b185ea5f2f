"""Batches of tokens: what a worker trains on, and what an evaluation reads.

Arrays that come out of here are filled again by the next call; copy what must last.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from psdp.data.partition import Grid, Partition
from psdp.data.tokenizer import Array
from psdp.errors import DataError


class Batches:
    """The training batches of one worker, a pure function of seed, worker, clock and micro-batch.

    Shapes: tokens (N,) of any integer type; batches (b, T) int64 for b sequences of T tokens.
    """

    def __init__(
        self,
        tokens: Array,
        *,
        block_size: int,
        batch_size: int,
        grad_accum: int,
        worker: int,
        workers: int,
        partition: str,
        seed: int,
    ) -> None:
        """``worker`` counts from 0.

        Raises:
            DataError: the split is too short for a window, or leaves a worker without one.
        """
        self._tokens = tokens
        self._grad_accum = grad_accum
        grid = Grid(tokens.size, block_size, seed)
        self.windows_per_epoch = grid.count
        self._partition = Partition(grid, partition, worker=worker, workers=workers, seed=seed)
        self._x = np.empty((batch_size, block_size), np.int64)
        self._y = np.empty((batch_size, block_size), np.int64)

    def batch(self, clock: int, micro: int) -> tuple[Array, Array]:
        """Return inputs and targets (b, T), (b, T) of micro-batch ``micro`` at ``clock``."""
        assert 0 <= micro < self._grad_accum
        batch = clock * self._grad_accum + micro
        starts = self._partition.starts(batch, batch_size=len(self._x))
        _fill(self._x, self._y, self._tokens, starts)
        return self._x, self._y


class Validation:
    """The validation split in batches, the same ones at every evaluation.

    With ``limit_batches`` 0 every token but the first is a counted target exactly once: windows lie
    side by side, the last is pushed back to end with the split, and what it repeats is not counted.
    With a limit, that many batches of windows evenly spread over the split.
    """

    def __init__(
        self, tokens: Array, block_size: int, batch_size: int, limit_batches: int = 0
    ) -> None:
        """
        Raises:
            DataError: the split is too short for a window.
        """
        targets = tokens.size - 1
        if targets < block_size:
            raise DataError(
                f"validation split too short for --block-size {block_size}: it has {tokens.size} "
                f"tokens and a window needs {block_size + 1}; raise --val-fraction, lower "
                "--block-size, or turn evaluation off with --val-fraction 0"
            )
        self._tokens = tokens
        self._shape = (batch_size, block_size)
        windows = -(-targets // block_size)
        self._last = windows - 1
        self._repeated = windows * block_size - targets
        self._last_start = targets - block_size
        chosen = windows
        if limit_batches:
            chosen = min(windows, limit_batches * batch_size)
        self._windows = np.arange(chosen, dtype=np.int64) * windows // chosen
        self.count = -(-chosen // batch_size)

    def parts(self, n: int) -> list[range]:
        """Cut the batches into ``n`` runs whose lengths differ by one at most (0 is possible)."""
        return [range(self.count * k // n, self.count * (k + 1) // n) for k in range(n)]

    def batches(self, part: range) -> Iterator[tuple[Array, Array, Array]]:
        """Yield inputs, targets (b, T) int64 and which of these count (b, T) bool.

        A last batch that is not full repeats a window, uncounted, so every batch has one shape.
        """
        x, y = np.empty(self._shape, np.int64), np.empty(self._shape, np.int64)
        counted = np.empty(self._shape, bool)
        size = self._shape[0]
        for batch in part:
            ids = self._windows[batch * size : (batch + 1) * size]
            counted[: ids.size] = True
            counted[: ids.size][ids == self._last, : self._repeated] = False
            counted[ids.size :] = False
            ids = np.pad(ids, (0, size - ids.size), mode="edge")
            _fill(x, y, self._tokens, np.minimum(ids * self._shape[1], self._last_start))
            yield x, y, counted


def _fill(x: Array, y: Array, tokens: Array, starts: Array) -> None:
    """Write the windows at ``starts`` (b,) to x, and to y the same one token later; both (b, T)."""
    length = x.shape[1]
    # A slice a row: for the few rows of a batch faster than one indexed read, above all of a map.
    for row, start in enumerate(starts.tolist()):
        x[row] = tokens[start : start + length]
        y[row] = tokens[start + 1 : start + 1 + length]
