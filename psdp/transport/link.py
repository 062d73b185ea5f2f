"""A slow link, for trying what a cluster's network would do to a run on one host."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable


class Link:
    """Lets a rank's messages out one after the other, as fast as a link of so many megabits/s.

    Args:
        now: a clock in seconds.
    """

    def __init__(self, mbps: float, now: Callable[[], float] = time.monotonic) -> None:
        assert mbps > 0
        self._mbps = mbps
        self._now = now
        self._free_s = now()
        self._queue: deque[tuple[float, Callable[[], None]]] = deque()

    def post(self, size: int, send: Callable[[], None]) -> None:
        """Have ``send`` called by :meth:`release` once a message of ``size`` bytes is through."""
        self._free_s = max(self._now(), self._free_s) + seconds_on_link(size, self._mbps)
        self._queue.append((self._free_s, send))

    def release(self) -> None:
        """Send what is through by now."""
        while self._queue and self._queue[0][0] <= self._now():
            self._queue.popleft()[1]()

    def next_s(self) -> float:
        """Return the seconds until something can be released; infinite if nothing waits."""
        return max(0.0, self._queue[0][0] - self._now()) if self._queue else float("inf")


def seconds_on_link(size: int, mbps: float) -> float:
    """Return how long ``size`` bytes take on a link of so many megabits/s."""
    return size * 8 / (mbps * 1e6)
