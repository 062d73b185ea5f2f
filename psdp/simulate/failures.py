"""Simulated workers that fail, and come back."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

from psdp.protocol import Leave, Pull
from psdp.simulate.clock import Clock
from psdp.simulate.costs import Costs
from psdp.simulate.worker import Worker

_STREAM = 0x6661696C
"""Tells the times of failures from other random numbers of the same seed."""


class Failures:
    """Lets workers fail by chance.

    Args:
        workers: by their numbers.
        tell: has rank 0 learn that a worker is gone, or asks for weights again.
        most: the job ends with the failure after so many.

    Attributes:
        count: of them so far.
    """

    def __init__(
        self,
        clock: Clock,
        costs: Costs,
        workers: Mapping[int, Worker],
        tell: Callable[[Pull | Leave], None],
        most: int,
    ) -> None:
        self.count = 0
        self._clock = clock
        self._costs = costs
        self._workers = workers
        self._tell = tell
        self._most = most

    def begin(self, seed: int) -> None:
        """Let each worker fail some time, if any does."""
        if self._costs.mtbf_s is not None:
            for number, worker in enumerate(self._workers):
                self._schedule(worker, np.random.default_rng([seed, number, _STREAM]))

    def _schedule(self, worker: int, rng: np.random.Generator) -> None:
        assert self._costs.mtbf_s is not None
        self._clock.after(rng.exponential(self._costs.mtbf_s), self._fail, worker, rng)

    def _fail(self, worker: int, rng: np.random.Generator) -> None:
        self.count += 1
        if self.count > self._most:
            self._clock.stop(self._clock.now_s)
        self._workers[worker].fail()
        self._tell(Leave(worker))
        if self._costs.restart_s is not None:
            self._clock.after(self._costs.restart_s, self._come_back, worker, rng)

    def _come_back(self, worker: int, rng: np.random.Generator) -> None:
        self._workers[worker].come_back()
        self._tell(Pull(worker))
        self._schedule(worker, rng)
