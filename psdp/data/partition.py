"""Which window of the training split a worker reads when. Numbers only: no token is touched here.

A window is ``block_size`` tokens and the one after it. An epoch lays a grid of M windows over the
split, shifted by a random phase so that the cuts fall elsewhere each time, and visits every window
once in a shuffled order. All of it is a pure function of the seed and of a sample's number, so
the clock is the only state that a checkpoint has to keep.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from psdp.errors import DataError
from psdp.params import Array

# Purposes of the random streams, far from the small integers that other modules seed with.
_PHASE, _SHUFFLE = 0x70686173, 0x73687566


class Grid:
    """The windows of one epoch: ``count`` of them, the first at ``phase(epoch)``."""

    def __init__(self, size: int, block_size: int, seed: int) -> None:
        """``size``: tokens in the training split.

        Raises:
            DataError: the split has no room for one window.
        """
        if size < block_size + 1:
            raise DataError(
                f"corpus too short for --block-size {block_size}: the training split has {size} "
                f"tokens and a window needs {block_size + 1}; lower --block-size or "
                "--val-fraction, or take a longer corpus"
            )
        self.size = size
        self.block_size = block_size
        self.count = max(1, (size - block_size) // block_size)
        self._seed = seed

    def phase(self, epoch: int) -> int:
        """Return where the first window of ``epoch`` starts: at least 0, below the block size."""
        room = min(self.block_size, self.size - self.count * self.block_size)
        return int(np.random.default_rng([self._seed, _PHASE, epoch]).integers(room))


class Order:
    """An endless stream of samples: every epoch visits each of ``windows`` once, shuffled."""

    def __init__(self, grid: Grid, windows: Array, seed: int, stream: int) -> None:
        """``windows``: ids (M,) in the grid; ``stream`` tells apart orders of one seed."""
        self._grid = grid
        self._windows = windows
        self._key = (seed, _SHUFFLE, stream)
        # Two, since a batch may straddle epochs.
        self._epoch_starts = lru_cache(maxsize=2)(self._shuffled)

    def starts(self, first: int, count: int) -> Array:
        """Return where the windows of samples first .. first+count-1 start (count,) int64."""
        starts = np.empty(count, np.int64)
        done = 0
        while done < count:
            epoch, index = divmod(first + done, self._windows.size)
            piece = self._epoch_starts(epoch)[index : index + count - done]
            starts[done : done + piece.size] = piece
            done += piece.size
        return starts

    def _shuffled(self, epoch: int) -> Array:
        rng = np.random.default_rng([*self._key, epoch])
        starts: Array = rng.permutation(self._windows)
        starts *= self._grid.block_size
        starts += self._grid.phase(epoch)
        return starts


class Partition:
    """The samples of one worker. ``worker`` counts from 0 to ``workers`` - 1.

    contiguous: a worker keeps to its own run of neighbouring windows.
    hash: a window's owner is a hash of its id and the seed.
    random: all workers deal themselves one shuffled deck, so W workers with batch b read at every
    step exactly what one worker with batch W*b reads.
    """

    def __init__(self, grid: Grid, kind: str, *, worker: int, workers: int, seed: int) -> None:
        """
        Raises:
            DataError: a worker, of whatever rank, would get no window.
        """
        assert 0 <= worker < workers
        if grid.count < workers:
            raise DataError(
                f"corpus too short for {workers} workers: {grid.size} training tokens make "
                f"{grid.count} windows of --block-size {grid.block_size}; lower --block-size or "
                "the number of workers, or take a longer corpus"
            )
        shared = kind == "random"
        windows = np.arange(grid.count, dtype=np.int64)
        if not shared:
            owner = _owners(kind, grid.count, workers, seed)
            _check_every_worker_reads(kind, owner, workers, grid)
            windows = windows[owner == worker]
        self._order = Order(grid, windows, seed, stream=0 if shared else worker)
        self._dealt_to = workers if shared else 1
        self._place = worker if shared else 0
        self.windows = windows.size
        """Of an epoch of the order that this worker's samples are numbered in."""

    def sample(self, batch: int, batch_size: int) -> int:
        """Return the number of the first sample of this worker's ``batch``-th batch: an epoch has
        one for each of ``windows``."""
        return (batch * self._dealt_to + self._place) * batch_size

    def starts(self, batch: int, batch_size: int) -> Array:
        """Return where the windows of this worker's ``batch``-th batch start (batch_size,)."""
        return self._order.starts(self.sample(batch, batch_size), batch_size)


def splitmix64(seed: int, count: int) -> Array:
    """Return the first ``count`` outputs (count,) uint64 of the generator splitmix64.

    Steele, Lea and Flood (2014), "Fast splittable pseudorandom number generators".
    """
    z = np.arange(1, count + 1, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    z += np.uint64(seed % (1 << 64))
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))


def _owners(kind: str, count: int, workers: int, seed: int) -> Array:
    """Return the worker (count,) of each window."""
    if kind == "hash":
        return splitmix64(seed, count) % np.uint64(workers)
    # Runs of windows whose lengths differ by one at most.
    ends = count * np.arange(1, workers + 1) // workers
    return np.searchsorted(ends, np.arange(count), side="right")


def _check_every_worker_reads(kind: str, owner: Array, workers: int, grid: Grid) -> None:
    windows = np.bincount(owner.astype(np.int64), minlength=workers)
    if windows.min() == 0:
        raise DataError(
            f"--partition {kind} leaves worker {int(windows.argmin()) + 1} of {workers} without a "
            f"window: {grid.size} training tokens make {grid.count} windows of --block-size "
            f"{grid.block_size}; lower --block-size or the number of workers, or take "
            "--partition random"
        )
