"""Choosing the mode of a run that goes over from one to another, by the times that rank 0 sees."""

from __future__ import annotations

import time
from collections.abc import Callable

from psdp.job import Job
from psdp.protocol import Choice, Chooser, Work


class Choosing:
    """Feeds the pure chooser with a clock and with what updates cost.

    Args:
        costs: returns the mean seconds of an update so far, and of averaging before it.
        now: a clock in seconds.
    """

    def __init__(
        self,
        job: Job,
        costs: Callable[[], tuple[float, float]],
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self.chooser = Chooser(job.config.run.local_steps or 1, len(job.servers))
        self._costs = costs
        self._now = now

    def pushed(self, worker: int, work: Work) -> None:
        """A worker has pushed."""
        self.chooser.pushed(worker, self._now(), work.steps, work.step_s, work.loss)

    def answered(self, worker: int) -> None:
        """A worker was given weights to train on."""
        self.chooser.answered(worker, self._now())

    def left(self, worker: int) -> None:
        """A worker is gone."""
        self.chooser.left(worker)

    def choose(self, mode: str, workers: int) -> Choice | None:
        """Return the mode to go over to from this one, or to stay in; None if too little was seen
        to say."""
        return self.chooser.choose(mode, workers, *self._costs())
