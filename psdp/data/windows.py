"""Where the windows of a row of tokens are, and which of their targets count.

A window is ``block_size`` tokens; the target of each is the token after it.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from functools import lru_cache

import numpy as np

from psdp.errors import DataError
from psdp.params import Array

# Purpose of the random stream, far from the small integers that other modules seed with.
_PHASE = 0x70686173

SHUFFLED, KEYED = "shuffled", "keyed"
"""How an epoch is ordered: by a list of all windows, or, where that would be too long, without."""

KEYED_FROM = 1 << 24
"""Windows from which on there is no list: it would have 128 MB."""


class Windows(ABC):
    """The windows of a row of tokens.

    Attributes:
        size: of the row.
        count: windows.
        units: targets that count in all of them.
    """

    def __init__(self, size: int, block_size: int, count: int, units: int) -> None:
        self.size, self.block_size = size, block_size
        self.count, self.units = count, units

    @property
    def order(self) -> str:
        """How an epoch of them is ordered."""
        return KEYED if self.count >= KEYED_FROM else SHUFFLED

    @abstractmethod
    def starts(self, epoch: int, ids: Array) -> Array:
        """Return where the windows of these numbers (n,) begin in an epoch (n,) int64."""

    @abstractmethod
    def counted(self, starts: Array) -> tuple[Array, Array]:
        """Return of windows that begin there (n,) the first target that counts, and the one after
        the last; both (n,)."""


class Grid(Windows):
    """Of training: side by side, the first at ``phase(epoch)``, so that the cuts fall elsewhere
    each time; all targets count."""

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
        count = max(1, (size - block_size) // block_size)
        super().__init__(size, block_size, count, count * block_size)
        self._seed = seed
        self.phase = lru_cache(maxsize=2)(self._phase)

    def starts(self, epoch: int, ids: Array) -> Array:
        starts: Array = ids * self.block_size + self.phase(epoch)
        return starts

    def counted(self, starts: Array) -> tuple[Array, Array]:
        return np.zeros_like(starts), np.full_like(starts, self.block_size)

    def _phase(self, epoch: int) -> int:
        """Return where the first window of ``epoch`` starts: at least 0, below the block size."""
        room = min(self.block_size, self.size - self.count * self.block_size)
        return int(np.random.default_rng([self._seed, _PHASE, epoch]).integers(room))


class SideBySide(Windows):
    """Of an evaluation: every token but the first is a counted target once. The last window is
    pushed back to end with the row, and what it repeats does not count."""

    def __init__(self, size: int, block_size: int) -> None:
        """
        Raises:
            DataError: the row is too short for a window.
        """
        targets = size - 1
        if targets < block_size:
            raise DataError(
                f"validation split too short for --block-size {block_size}: it has {size} "
                f"tokens and a window needs {block_size + 1}; raise --val-fraction, lower "
                "--block-size, or turn evaluation off with --val-fraction 0"
            )
        super().__init__(size, block_size, -(-targets // block_size), targets)
        self._last_start = targets - block_size
        self._repeated = self.count * block_size - targets

    def starts(self, epoch: int, ids: Array) -> Array:
        starts: Array = np.minimum(ids * self.block_size, self._last_start)
        return starts

    def counted(self, starts: Array) -> tuple[Array, Array]:
        last = starts == self._last_start
        return np.where(last, self._repeated, 0), np.full_like(starts, self.block_size)


class Elsewhere(Windows):
    """So many windows of a row that cannot be read here."""

    def starts(self, epoch: int, ids: Array) -> Array:
        raise AssertionError("the windows are elsewhere")

    def counted(self, starts: Array) -> tuple[Array, Array]:
        raise AssertionError("the windows are elsewhere")
