"""Batches of tokens: what a worker trains on, and what an evaluation reads.

Arrays that come out of here are filled again by the next call; copy what must last.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from psdp.data.partition import Partition
from psdp.data.tokens import Tokens
from psdp.data.windows import Windows
from psdp.params import Array


class TextBatch(NamedTuple):
    """Sequences of tokens, what follows each token, and which of these targets count.

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
        windows: Windows,
        *,
        batch_size: int,
        worker: int,
        workers: int,
        partition: str,
        seed: int,
    ) -> None:
        """``worker`` counts from 0; ``windows`` are of ``tokens``.

        Raises:
            DataError: a worker is left without a window.
        """
        self._tokens, self._windows = tokens, windows
        self._partition = Partition(windows, partition, worker=worker, workers=workers, seed=seed)
        self._batch = _empty(batch_size, windows)

    def batch(self, number: int) -> TextBatch:
        """Return batch ``number``, from 0."""
        _fill(self._batch, self._tokens, self._windows, self._starts(number))
        return self._batch

    def counted(self, number: int) -> int:
        """Return how many targets of a batch count."""
        first, end = self._windows.counted(self._starts(number))
        return int((end - first).sum())

    def _starts(self, number: int) -> Array:
        return self._partition.starts(number, batch_size=len(self._batch.tokens))


class Validation:
    """The validation split in batches, the same ones at every evaluation.

    A sample is of so many of its windows, evenly spread over the split; how many make a batch has
    no say in which.

    Attributes:
        units, split_units: targets that count, and those of the whole split.
        count: batches.
    """

    def __init__(self, tokens: Tokens, windows: Windows, batch_size: int, sample: int = 0) -> None:
        """
        Args:
            windows: of ``tokens``.
            sample: windows (0: all).
        """
        self._tokens, self._windows, self._size = tokens, windows, batch_size
        chosen = min(windows.count, sample or windows.count)
        self._starts = windows.starts(
            0, np.arange(chosen, dtype=np.int64) * windows.count // chosen
        )
        self.count = -(-chosen // batch_size)
        self.split_units = windows.units
        first, end = windows.counted(self._starts)
        self.units = int((end - first).sum())

    def part(self, part: int, parts: int) -> range:
        """Return one of ``parts`` runs of batches, whose lengths differ by one at most (0 is
        possible)."""
        return range(self.count * part // parts, self.count * (part + 1) // parts)

    def text_bytes(self, of: Array) -> int:
        """Return how many bytes of text the targets that count stand for, by those that each token
        does, ``of`` (V,)."""
        whole = self.batches(range(self.count))
        # A token outside of the vocabulary is told of when it is trained on.
        return sum(int(of.take(batch.targets[batch.counted], mode="clip").sum()) for batch in whole)

    def batches(self, part: range) -> Iterator[TextBatch]:
        """Yield these batches.

        A last one that is not full repeats a window, uncounted, so every batch has one shape.
        """
        into, size = _empty(self._size, self._windows), self._size
        for batch in part:
            starts = self._starts[batch * size : (batch + 1) * size]
            padded = np.pad(starts, (0, size - starts.size), mode="edge")
            _fill(into, self._tokens, self._windows, padded)
            into.counted[starts.size :] = False
            yield into


def _empty(batch_size: int, windows: Windows) -> TextBatch:
    shape = batch_size, windows.block_size
    return TextBatch(np.empty(shape, np.int64), np.empty(shape, np.int64), np.empty(shape, bool))


def _fill(batch: TextBatch, tokens: Tokens, windows: Windows, starts: Array) -> None:
    """Write the windows at ``starts`` (b,) to a batch; what follows the last counted target of one
    is token 0."""
    first, end = windows.counted(starts)
    places = np.arange(windows.block_size)
    np.greater_equal(places, first[:, None], out=batch.counted)
    np.logical_and(batch.counted, places < end[:, None], out=batch.counted)
    window = np.empty(windows.block_size + 1, np.int64)
    now, later = window[:-1], window[1:]
    # One after the other: for the few rows of a batch faster than one indexed read, above all of a
    # map.
    for row, (start, stop) in enumerate(zip(starts.tolist(), end.tolist(), strict=True)):
        tokens.read(start, window[: stop + 1])
        window[stop + 1 :] = 0
        batch.tokens[row] = now
        batch.targets[row] = later
