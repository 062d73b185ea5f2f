"""Batches of tokens: what a worker trains on, and what an evaluation reads.

Arrays that come out of here are filled again by the next call; copy what must last.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from psdp.data.partition import Grid, Partition
from psdp.data.tokens import Tokens
from psdp.errors import DataError
from psdp.params import Array


class TextBatch(NamedTuple):
    """Sequences of tokens, what follows each token, and, in an evaluation, which of them count.

    Shapes: (b, T) for b sequences of T tokens, int64 and bool.
    """

    tokens: Array
    targets: Array
    counted: Array


class Batches:
    """The training batches of one worker, a pure function of seed, worker and number.

    Shapes: batches (b, T) int64 for b sequences of T tokens.
    """

    def __init__(
        self,
        tokens: Tokens,
        *,
        block_size: int,
        batch_size: int,
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
        grid = Grid(tokens.size, block_size, seed)
        self.windows_per_epoch = grid.count
        self._partition = Partition(grid, partition, worker=worker, workers=workers, seed=seed)
        shape = batch_size, block_size
        counted = np.ones(shape, bool)
        self._batch = TextBatch(np.empty(shape, np.int64), np.empty(shape, np.int64), counted)

    def batch(self, number: int) -> TextBatch:
        """Return batch ``number``, from 0; all of its targets count."""
        tokens, targets, _ = self._batch
        starts = self._partition.starts(number, batch_size=len(tokens))
        _fill(tokens, targets, self._tokens, starts)
        return self._batch


class Validation:
    """The validation split in batches, the same ones at every evaluation.

    Of the whole split every token but the first is a counted target exactly once: windows lie side
    by side, the last is pushed back to end with the split, and what it repeats is not counted. A
    sample is of so many of these windows, evenly spread over the split; how many make a batch has
    no say in which.

    Attributes:
        units, split_units: targets that count, and those of the whole split.
        count: batches.
    """

    def __init__(self, tokens: Tokens, block_size: int, batch_size: int, sample: int = 0) -> None:
        """
        Args:
            sample: windows (0: all).

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
        chosen = min(windows, sample or windows)
        self._windows = np.arange(chosen, dtype=np.int64) * windows // chosen
        self.count = -(-chosen // batch_size)
        self.split_units = targets
        ends = int(self._windows[-1]) == self._last
        self.units = chosen * block_size - self._repeated * ends

    def part(self, part: int, parts: int) -> range:
        """Return one of ``parts`` runs of batches, whose lengths differ by one at most (0 is
        possible)."""
        return range(self.count * part // parts, self.count * (part + 1) // parts)

    def batches(self, part: range) -> Iterator[TextBatch]:
        """Yield these batches.

        A last one that is not full repeats a window, uncounted, so every batch has one shape.
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
            yield TextBatch(x, y, counted)


def _fill(x: Array, y: Array, tokens: Tokens, starts: Array) -> None:
    """Write the windows at ``starts`` (b,) to x, and to y the same one token later; both (b, T)."""
    window = np.empty(x.shape[1] + 1, np.int64)
    now, later = window[:-1], window[1:]
    # One after the other: for the few rows of a batch faster than one indexed read, above all of a
    # map.
    for row, start in enumerate(starts.tolist()):
        tokens.read(start, window)
        x[row] = now
        y[row] = later
