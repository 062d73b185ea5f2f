"""Which mode a run should be in that may go over from one to another, by what rank 0 sees of its
workers.

From the time that steps and exchanges take, the speed of every mode is predicted. A mode that is
clearly faster is proposed; one in which the loss rose is not proposed again.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from statistics import fmean, median, variance

from psdp.modes import CHOSEN_FROM, MODES

WINDOW = 16
"""Pushes of every worker between two decisions."""
ROUNDS = 4
"""The same where workers train alone between two pushes."""
MARGIN = 1.15
"""How many times faster than the present one a mode must be predicted to learn."""
UNEQUAL = 4.0
"""Between workers, how many times as much as within them the variance of steps must be (the F of an
analysis of variance) for some to be slower, and not unlucky."""
RISE = 4.0
"""Standard errors by which the loss must have risen since a change of mode to be no accident."""


CANDIDATES = tuple(mode.name for mode in CHOSEN_FROM)
"""The modes that are proposed, the one to begin in and to go back to first."""


@dataclass(frozen=True)
class Choice:
    """Go over to this mode, for this reason."""

    mode: str
    reason: str


@dataclass
class _Seen:
    """The last pushes of one worker: seconds of a step, seconds of an exchange, losses in nats."""

    step_s: deque[float] = field(default_factory=lambda: deque(maxlen=WINDOW))
    exchange_s: deque[float] = field(default_factory=lambda: deque(maxlen=WINDOW))
    losses: deque[float] = field(default_factory=lambda: deque(maxlen=WINDOW))
    answered_s: float = math.nan


@dataclass(frozen=True)
class Speeds:
    """Gradients per second of each mode.

    Args:
        means_s: mean seconds of a step of each worker.
        spread: how many times as long as a step of the slowest worker, on average, the slowest step
            of a turn takes; above 1 where now one and now another worker is slow.
        exchange_s: for which vectors travel between two steps.
        apply_s: of an update.
        local_steps: steps between pushes, where workers have an optimizer of their own.
    """

    means_s: Mapping[int, float]
    spread: float
    exchange_s: float
    apply_s: float
    local_steps: int

    def of(self, mode: str) -> float:
        workers, slowest_s = len(self.means_s), max(self.means_s.values())
        between_s = self.exchange_s + self.apply_s
        if MODES[mode].own_optimizer:
            between_s /= self.local_steps
            return sum(1 / (mean_s + between_s) for mean_s in self.means_s.values())
        if MODES[mode].in_rounds:
            return workers / (self.spread * slowest_s + between_s)
        # An update of each gradient, one after the other.
        return workers / max(slowest_s + between_s, workers * self.apply_s)

    def worth(self, mode: str) -> float:
        """Return what a mode learns in a second, in units of the first one."""
        return self.of(mode) * (MODES[mode].worth or 0.0)

    def __str__(self) -> str:
        of = ", ".join(f"{mode} {self.of(mode):.3g}" for mode in CANDIDATES)
        fastest, slowest = min(self.means_s.values()), max(self.means_s.values())
        return (
            f"a step takes {1e3 * fastest:.3g} to {1e3 * slowest:.3g} ms on average, the slowest "
            f"of a turn {1e3 * slowest * self.spread:.3g} ms, an exchange "
            f"{1e3 * self.exchange_s:.3g} ms, an update {1e3 * self.apply_s:.3g} ms; "
            f"gradients/s would be {of}"
        )


class Chooser:
    """Proposes changes of mode.

    Args:
        local_steps: steps between pushes, where workers have an optimizer of their own.
    """

    def __init__(self, local_steps: int) -> None:
        self._local_steps = local_steps
        self._seen: dict[int, _Seen] = {}
        self._spread = 1.0
        self._banned: set[str] = set()
        self._before: tuple[str, list[float]] | None = None
        """Of the mode before the last change: its name and its last losses."""

    def pushed(self, worker: int, now_s: float, steps: int, step_s: float, loss: float) -> None:
        """Note that what a worker made of ``steps`` steps came, and this mean loss."""
        seen = self._seen.setdefault(worker, _Seen())
        seen.step_s.append(step_s)
        seen.losses.append(loss)
        if not math.isnan(seen.answered_s):
            # What lies between an answer and the next push and is no computing, is travelling.
            seen.exchange_s.append(max(0.0, now_s - seen.answered_s - steps * step_s))
        seen.answered_s = math.nan

    def answered(self, worker: int, now_s: float) -> None:
        """Note that a worker was given weights to train on."""
        if worker in self._seen:
            self._seen[worker].answered_s = now_s

    def left(self, worker: int) -> None:
        """Note that a worker is gone."""
        self._seen.pop(worker, None)

    def choose(self, mode: str, workers: int, apply_s: float) -> Choice | None:
        """Return what to change, if anything, now that the run is in ``mode`` and an update takes
        so many seconds."""
        wanted = ROUNDS if MODES[mode].own_optimizer else WINDOW
        if (
            len(self._seen) < workers
            or min(len(s.exchange_s) for s in self._seen.values()) < wanted
        ):
            return None
        losses = [loss for seen in self._seen.values() for loss in seen.losses]
        speeds = self._speeds(mode, apply_s)
        choice = self._back(mode, losses)
        if choice is None:
            allowed = [other for other in CANDIDATES if other not in self._banned]
            best = max(allowed, key=speeds.worth)
            if best != mode and speeds.worth(best) > MARGIN * speeds.worth(mode):
                choice = Choice(best, str(speeds))
        self._before = (mode, losses) if choice is not None else None
        self._seen.clear()
        return choice

    def _speeds(self, mode: str, apply_s: float) -> Speeds:
        steps = {worker: list(seen.step_s) for worker, seen in self._seen.items()}
        means_s = _means(steps)
        if not MODES[mode].own_optimizer:  # there a push tells of the mean of many steps
            turns = min(map(len, steps.values()))
            slowest_s = fmean(max(own[-turns:][i] for own in steps.values()) for i in range(turns))
            self._spread = max(1.0, slowest_s / max(means_s.values()))
        exchange_s = median(s for seen in self._seen.values() for s in seen.exchange_s)
        return Speeds(means_s, self._spread, exchange_s, apply_s, self._local_steps)

    def _back(self, mode: str, losses: list[float]) -> Choice | None:
        """Return the way back from a mode in which the loss rose."""
        if self._before is None or mode == CANDIDATES[0]:
            return None
        before, then = self._before
        rise = fmean(losses) - fmean(then)
        error = math.sqrt(variance(losses) / len(losses) + variance(then) / len(then))
        if not rise > RISE * error:
            return None
        self._banned.add(mode)
        return Choice(
            before if before not in self._banned else CANDIDATES[0],
            f"since the change to {mode} the loss rose from {fmean(then):.4f} to "
            f"{fmean(losses):.4f}, {rise / error:.1f} standard errors; it is not tried again",
        )


def _means(steps: Mapping[int, list[float]]) -> dict[int, float]:
    """Return the mean of each worker's steps; that of all if they differ by chance alone."""
    means = {worker: fmean(own) for worker, own in steps.items()}
    if len(means) < 2:
        return means
    count = min(map(len, steps.values()))
    between, within = count * variance(means.values()), fmean(map(variance, steps.values()))
    return means if between > UNEQUAL * within else dict.fromkeys(means, fmean(means.values()))
