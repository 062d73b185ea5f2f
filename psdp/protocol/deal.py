"""Which batches of the training data are still to be computed, where the server deals them out."""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Iterable


class Ranges:
    """A growing set of whole numbers from 0 on, as few ranges: what is done of a queue."""

    def __init__(self, ranges: Iterable[tuple[int, int]] = ()) -> None:
        self._ranges: list[tuple[int, int]] = []
        for start, stop in ranges:
            self.add(range(start, stop))

    def add(self, numbers: range) -> None:
        """Add numbers that are not in the set."""
        start, stop = numbers.start, numbers.stop
        index = bisect_left(self._ranges, (start, stop))
        if index < len(self._ranges) and self._ranges[index][0] == stop:
            stop = self._ranges.pop(index)[1]
        if index and self._ranges[index - 1][1] == start:
            index -= 1
            start = self._ranges.pop(index)[0]
        self._ranges.insert(index, (start, stop))

    def pairs(self) -> list[tuple[int, int]]:
        """Return (first, last + 1) of each range, rising."""
        return list(self._ranges)


class Deck:
    """Deals numbered batches out in order, so that who is fast takes more of them.

    What comes back, because its worker died or its gradient was too late, is dealt out again before
    any other. So each batch is computed once, whoever does it.

    Args:
        done: batches that were computed before.
    """

    def __init__(self, done: Iterable[tuple[int, int]] = ()) -> None:
        self._next = 0
        self._back: list[tuple[int, int]] = []
        for start, stop in done:
            if start > self._next:
                self._back.append((self._next, start))
            self._next = stop

    def take(self, count: int) -> range:
        """Return the next batches: ``count`` of them, or fewer where fewer came back together."""
        if not self._back:
            self._next += count
            return range(self._next - count, self._next)
        start, stop = self._back.pop(0)
        if stop - start > count:
            self._back.insert(0, (start + count, stop))
        return range(start, min(stop, start + count))

    def give_back(self, batches: range) -> None:
        """Take back what was not computed."""
        insort(self._back, (batches.start, batches.stop))
