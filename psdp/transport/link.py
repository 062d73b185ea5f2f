"""A slow link, for trying what a cluster's network would do to a run on one host."""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Callable, Sequence

from psdp.config import RunConfig
from psdp.config.handicap import Slowing, factor_at, parse_slow_link


class LinkSpeed:
    """How fast a link is, and is for a while.

    Args:
        mbps: megabits/s; infinite where nothing slows it down.
        slowings: in seconds of the run.

    Attributes:
        infinite: whether whatever begins is through.
    """

    def __init__(self, mbps: float, slowings: Sequence[Slowing] = ()) -> None:
        assert mbps > 0
        self.infinite = mbps == math.inf
        self._bytes_per_s = mbps * 1e6 / 8
        self._slowings = slowings
        self._edges = sorted(
            {edge for each in slowings for edge in (each.span.start, each.span.end)}
        )

    @classmethod
    def of(cls, run: RunConfig) -> LinkSpeed:
        """Return what the settings of a run say."""
        return cls(run.link_mbps or math.inf, parse_slow_link(run.slow_link))

    def through_s(self, begin_s: float, size: float) -> float:
        """Return when ``size`` bytes are through that begin then, both in seconds of the run."""
        left_s = size / self._bytes_per_s
        if not self._slowings:
            return begin_s + left_s
        for edge_s in self._edges:
            factor = factor_at(self._slowings, 0, begin_s)
            if edge_s > begin_s and begin_s + factor * left_s > edge_s:
                left_s -= (edge_s - begin_s) / factor
                begin_s = edge_s
        return begin_s + factor_at(self._slowings, 0, begin_s) * left_s


class Link:
    """Lets a rank's messages out one after the other, as fast as a slow link would.

    Args:
        now: a clock in seconds. The run begins now.
    """

    def __init__(self, speed: LinkSpeed, now: Callable[[], float] = time.monotonic) -> None:
        self._speed = speed
        self._now = now
        self._begin_s = self._free_s = now()
        self._queue: deque[tuple[float, Callable[[], None]]] = deque()

    def post(self, size: int, send: Callable[[], None]) -> None:
        """Have ``send`` called by :meth:`release` once a message of ``size`` bytes is through."""
        since_s = max(self._now(), self._free_s) - self._begin_s
        self._free_s = self._begin_s + self._speed.through_s(since_s, size)
        self._queue.append((self._free_s, send))

    def release(self) -> None:
        """Send what is through by now."""
        while self._queue and self._queue[0][0] <= self._now():
            self._queue.popleft()[1]()

    def next_s(self) -> float:
        """Return the seconds until something can be released; infinite if nothing waits."""
        return max(0.0, self._queue[0][0] - self._now()) if self._queue else float("inf")
