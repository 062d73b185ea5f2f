"""Choosing the mode of a run that goes over from one to another, by the times that rank 0 sees."""

from __future__ import annotations

import time
from collections.abc import Callable

from psdp.protocol import Choice, Chooser, Work
from psdp.records.profile import Spans


class Choosing:
    """Feeds the pure chooser with a clock and with what updates cost.

    Args:
        profile: of this server.
        now: a clock in seconds.
    """

    def __init__(
        self, chooser: Chooser, profile: Spans, now: Callable[[], float] = time.monotonic
    ) -> None:
        self.chooser = chooser
        self._profile = profile
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
        """Return the mode to go over to from this one, and why; None to stay."""
        apply_s = self._profile.seconds / max(1, self._profile.steps)
        return self.chooser.choose(mode, workers, apply_s)
