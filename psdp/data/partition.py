"""Which window of the training split a worker reads when. Numbers only: no token is touched here.

An epoch visits each of M windows once, in an order of its own. All of it is a pure function of the
seed and of a sample's number, so the clock is the only state that a checkpoint has to keep.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from functools import lru_cache

import numpy as np

from psdp.data.permutation import Permutation, mixed
from psdp.data.windows import KEYED, Windows
from psdp.errors import DataError
from psdp.params import Array

# Purposes of the random streams, far from the small integers that other modules seed with.
_SHUFFLE, _SCATTER = 0x73687566, 0x73636174


class Order(ABC):
    """An endless stream of samples: every epoch visits each window once, in an order of its own.

    Args:
        stream: tells apart orders of one seed.

    Attributes:
        windows: of an epoch.
    """

    windows: int

    def __init__(self, grid: Windows, seed: int, stream: int) -> None:
        self._grid = grid
        self._key = (seed, _SHUFFLE, stream)

    def starts(self, first: int, count: int) -> Array:
        """Return where the windows of samples first .. first+count-1 start (count,) int64."""
        starts = np.empty(count, np.int64)
        done = 0
        while done < count:
            epoch, index = divmod(first + done, self.windows)
            piece = starts[done : done + self.windows - index]
            piece[...] = self._grid.starts(epoch, self._ids(epoch, index, piece.size))
            done += piece.size
        return starts

    @abstractmethod
    def _ids(self, epoch: int, index: int, count: int) -> Array:
        """Return these of the windows of an epoch (count,), by their number in the grid."""


class Shuffled(Order):
    """A shuffled list of all windows for each epoch.

    Args:
        ids: of the windows (M,) int32, which stay in memory, as do those of each epoch in hand.
    """

    def __init__(self, grid: Windows, ids: Array, seed: int, stream: int) -> None:
        super().__init__(grid, seed, stream)
        self.windows = ids.size
        # Two, since a batch may straddle epochs.
        self._epoch = lru_cache(maxsize=2)(
            lambda epoch: np.random.default_rng([*self._key, epoch]).permutation(ids)
        )

    def _ids(self, epoch: int, index: int, count: int) -> Array:
        return self._epoch(epoch)[index : index + count].astype(np.int64)


class Keyed(Order):
    """No list: a permutation for each epoch of the windows in a run of neighbours, or, scattered by
    another permutation, of windows from all over the grid."""

    def __init__(
        self, grid: Windows, run: range, scattered: Permutation | None, seed: int, stream: int
    ) -> None:
        super().__init__(grid, seed, stream)
        self.windows = len(run)
        self._first, self._scattered = run.start, scattered
        self._epoch = lru_cache(maxsize=2)(lambda epoch: Permutation(len(run), [*self._key, epoch]))

    def _ids(self, epoch: int, index: int, count: int) -> Array:
        ids = self._first + self._epoch(epoch)(np.arange(index, index + count))
        return ids if self._scattered is None else self._scattered(ids)


class Partition:
    """The samples of one worker. ``worker`` counts from 0 to ``workers`` - 1.

    contiguous: a worker keeps to its own run of neighbouring windows.
    hash: a window's owner follows from its id and the seed.
    random: all workers deal themselves one shuffled deck, so W workers with batch b read at every
    step exactly what one worker with batch W*b reads.
    """

    def __init__(self, grid: Windows, kind: str, *, worker: int, workers: int, seed: int) -> None:
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
        self._dealt_to = workers if shared else 1
        self._place = worker if shared else 0
        own = 0 if shared else worker, 1 if shared else workers
        order = _keyed if grid.order == KEYED else _shuffled
        self._order = order(grid, kind, *own, seed)
        self.windows = self._order.windows
        """Of an epoch of the order that this worker's samples are numbered in."""

    def sample(self, batch: int, batch_size: int) -> int:
        """Return the number of the first sample of this worker's ``batch``-th batch: an epoch has
        one for each of ``windows``."""
        return (batch * self._dealt_to + self._place) * batch_size

    def starts(self, batch: int, batch_size: int) -> Array:
        """Return where the windows of this worker's ``batch``-th batch start (batch_size,)."""
        return self._order.starts(self.sample(batch, batch_size), batch_size)


def _keyed(grid: Windows, kind: str, owner: int, owners: int, seed: int) -> Order:
    """Return the order of one of so many owners' windows."""
    run = range(grid.count * owner // owners, grid.count * (owner + 1) // owners)
    scattered = Permutation(grid.count, [seed, _SCATTER]) if kind == "hash" else None
    return Keyed(grid, run, scattered, seed, stream=owner)


def _shuffled(grid: Windows, kind: str, owner: int, owners: int, seed: int) -> Order:
    """Return the order of one of so many owners' windows.

    Raises:
        DataError: one of them owns none.
    """
    ids = np.arange(grid.count, dtype=np.int32)
    if owners > 1:
        by_id = _owners(kind, grid.count, owners, seed)
        _check_every_worker_reads(kind, by_id, owners, grid)
        ids = ids[by_id == owner]
    return Shuffled(grid, ids, seed, stream=owner)


def splitmix64(seed: int, count: int) -> Array:
    """Return the first ``count`` outputs (count,) uint64 of the generator splitmix64.

    Steele, Lea and Flood (2014), "Fast splittable pseudorandom number generators".
    """
    z = np.arange(1, count + 1, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    z += np.uint64(seed % (1 << 64))
    return mixed(z)


def _owners(kind: str, count: int, workers: int, seed: int) -> Array:
    """Return the worker (count,) of each window."""
    if kind == "hash":
        return splitmix64(seed, count) % np.uint64(workers)
    # Runs of windows whose lengths differ by one at most.
    ends = count * np.arange(1, workers + 1) // workers
    return np.searchsorted(ends, np.arange(count), side="right")


def _check_every_worker_reads(kind: str, owner: Array, workers: int, grid: Windows) -> None:
    windows = np.bincount(owner.astype(np.int64), minlength=workers)
    if windows.min() == 0:
        raise DataError(
            f"--partition {kind} leaves worker {int(windows.argmin()) + 1} of {workers} without a "
            f"window: {grid.size} training tokens make {grid.count} windows of --block-size "
            f"{grid.block_size}; lower --block-size or the number of workers, or take "
            "--partition random"
        )
