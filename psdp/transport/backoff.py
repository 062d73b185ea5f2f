"""How a rank waits without burning its core."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable


class Backoff:
    """Sleeps that grow from 30 microseconds to a millisecond.

    A peer that rings when it sends ends a sleep at once, and then the next ones are short again:
    its MPI may be a moment behind the bell. Where all peers ring, sleeps grow faster and longer.

    While a payload is under way most MPIs copy it inside our calls, so then we only yield the
    core; a transfer that stands still for so long as ``patience_s`` is no reason to burn one.

    Args:
        listen: sleeps for so many seconds or until a peer rings, and says whether one did
            (default: only sleeps).
        all_ring: whether all peers ring.
        patience_s: seconds.
    """

    _SHORTEST_S, _LONGEST_S = 30e-6, 1e-3

    def __init__(
        self,
        listen: Callable[[float], bool] | None = None,
        *,
        all_ring: bool = False,
        patience_s: float = 0.25,
    ) -> None:
        self._patience_s = patience_s
        self._listen = listen
        self._growth, self._longest_s = (5.0, 10e-3) if all_ring else (1.5, self._LONGEST_S)
        self._sleep_s = 0.0
        self._yielding_since: float | None = None

    def pause(self, transferring: bool, at_most_s: float = math.inf) -> None:
        """Sleep once, for so long at most, or yield the core."""
        if transferring:
            now = time.monotonic()
            if self._yielding_since is None:
                self._yielding_since = now
            if now - self._yielding_since < self._patience_s:
                os.sched_yield()
                return
        else:
            self._yielding_since = None
        if self._sleep_s == 0:
            # Some MPIs look for news only after they have answered: ask a second time at once.
            self._sleep_s = self._SHORTEST_S
            return
        sleep_s = min(self._sleep_s, at_most_s)
        if self._listen is None:
            time.sleep(sleep_s)
        elif self._listen(sleep_s):
            self._sleep_s = 0.0
            return
        self._sleep_s = min(self._sleep_s * self._growth, self._longest_s)
