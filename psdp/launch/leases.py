"""Which ranks have been silent for too long, by the time that this process was awake."""

from __future__ import annotations

import time
from collections.abc import Callable

START_S = 60.0
"""How long a rank may be silent at least while MPI starts, which lets no other thread run."""
STEP_S = 1.0
"""How much time may have passed at once, at most: a launcher that was stopped, or slept with its
host, has heard nobody meanwhile."""


class Leases:
    """The one arbiter of who is alive.

    Args:
        lease_s: for which a rank may be silent; 0: for ever.
        now: a clock in seconds.
    """

    def __init__(self, lease_s: float, now: Callable[[], float] = time.monotonic) -> None:
        self.lease_s = lease_s
        self._now = now
        self._last_s = now()
        self._awake_s = 0.0
        self._ends_s: dict[int, float] = {}
        self._allowed_s: dict[int, float] = {}

    def heard(self, rank: int, *, starting: bool) -> None:
        """A rank has given a sign of life; ``starting``: MPI does not have it yet."""
        allowed_s = max(self.lease_s, START_S) if starting else self.lease_s
        self._ends_s[rank] = self._awake_s + allowed_s
        self._allowed_s[rank] = allowed_s

    def forget(self, rank: int) -> None:
        """Nothing is expected of a rank any more."""
        self._ends_s.pop(rank, None)

    def expired(self) -> dict[int, float]:
        """Return the ranks that have been silent for longer than they may, each once, and how long
        that is; to be called at least every :data:`STEP_S`, when all that came has been heard."""
        now_s = self._now()
        self._awake_s += min(now_s - self._last_s, STEP_S)
        self._last_s = now_s
        if not self.lease_s:
            return {}
        silent = [rank for rank, end_s in self._ends_s.items() if self._awake_s > end_s]
        for rank in silent:
            self.forget(rank)
        return {rank: self._allowed_s[rank] for rank in sorted(silent)}
