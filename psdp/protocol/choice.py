"""Which mode a run should be in that may go over from one to another, by what rank 0 sees of its
workers.

From the time that steps and exchanges take, the gradients per second of every candidate are
forecast. Times what a gradient is worth there, that is how fast it learns. One that is clearly
faster than the present one is proposed; one in which the loss rose is not proposed again.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from statistics import fmean, median, variance
from typing import Any

from psdp.modes import CANDIDATES, Candidate

WINDOW = 16
"""Exchanges of every worker after which all is seen that is waited for, and looked at anew."""
ROUNDS = 4
"""The same where workers train alone between two exchanges."""
LOOKS = 1 / 4, 1 / 2, 1.0
"""After which parts of these a decision is made."""
MARGIN = 0.15
"""By how much faster than the present one a candidate must be forecast to learn, once all is seen;
when a part of that is seen, so many times more."""
UNEQUAL = 4.0
"""Between workers, how many times as much as within them the variance of steps must be (the F of an
analysis of variance) for some to be slower, and not unlucky."""
LEAST_S = 1e-9
"""A step takes no less than this."""
RISE = 4.0
"""Standard errors by which the loss must have risen since a change of mode to be no accident."""


@dataclass(frozen=True)
class Forecast:
    """What a candidate would do.

    Attributes:
        measured: whether the run is in it, and does so many gradients per second.
        worth: of a gradient, in gradients of the first candidate.
        progress_per_s: their product, by which candidates are compared.
    """

    mode: str
    gradients_per_s: float
    measured: bool
    worth: float
    progress_per_s: float

    def __str__(self) -> str:
        text = f"{self.mode} {self.gradients_per_s:.3g} x {self.worth:.2f} = "
        return f"{text}{self.progress_per_s:.3g}{' (measured)' if self.measured else ''}"


@dataclass(frozen=True)
class Choice:
    """Go over to this mode, or stay in it, for this reason.

    Attributes:
        compared: what all candidates would do, the first one first.
        margin: by how many times more a candidate had to learn in a second than the present one.
    """

    mode: str
    reason: str
    compared: tuple[Forecast, ...] = ()
    margin: float = 1 + MARGIN

    def record(self) -> dict[str, Any]:
        """Return everything for JSON."""
        return asdict(self) | {"compared": [asdict(one) for one in self.compared]}

    @classmethod
    def from_record(cls, record: Mapping[str, Any]) -> Choice | None:
        """Return what :meth:`record` described, whatever stands beside it; None if that is
        something else."""
        try:
            compared = tuple(Forecast(**one) for one in record["compared"])
            return cls(record["mode"], record["reason"], compared, record["margin"])
        except (KeyError, TypeError):
            return None


@dataclass
class _Seen:
    """The last exchanges of one worker: seconds of a step, and of the exchange, losses in nats."""

    step_s: deque[float] = field(default_factory=lambda: deque(maxlen=WINDOW))
    exchange_s: deque[float] = field(default_factory=lambda: deque(maxlen=WINDOW))
    losses: deque[float] = field(default_factory=lambda: deque(maxlen=WINDOW))
    answered_s: float = math.nan
    exchanges: int = 0


@dataclass(frozen=True)
class Speeds:
    """Gradients per second of each candidate.

    Args:
        steps_s: mean seconds of a step of each worker, without an optimizer of its own.
        spread: how many times as long as a step of the slowest worker, on average, the slowest step
            of a turn takes; above 1 where now one and now another worker is slow.
        exchange_s: for which vectors travel between two steps, if no other worker's do.
        queue_s: by how much longer they take for each other worker whose do at the same time.
        average_s: of averaging what all workers have pushed.
        apply_s: of an update on a server.
        inner_s: of one by a worker.
        local_steps: of the fastest worker between exchanges, where workers train alone.
    """

    steps_s: Mapping[int, float]
    spread: float
    exchange_s: float
    queue_s: float
    average_s: float
    apply_s: float
    inner_s: float
    local_steps: int

    def of(self, candidate: Candidate) -> float:
        """Return what a candidate would do."""
        mode, alone = candidate.mode, candidate.mode.own_optimizer
        own_s = {worker: s + alone * self.inner_s for worker, s in self.steps_s.items()}
        fastest_s, slowest_s = min(own_s.values()), max(own_s.values())
        longest = self.local_steps if alone else 1
        steps = {worker: max(1, round(longest * fastest_s / s)) for worker, s in own_s.items()}
        busy_s = {worker: steps[worker] * s for worker, s in own_s.items()}
        between_s = self.exchange_s + self.apply_s
        if candidate.in_rounds:
            # Of many steps together the chance ones make less of a difference.
            turn_s = max(busy_s.values()) * (1 + (self.spread - 1) / math.sqrt(longest))
            between_s += (len(own_s) - 1) * self.queue_s + self.average_s
            return sum(steps.values()) / (turn_s + between_s)
        if mode.has("staleness"):
            busy_s = dict.fromkeys(busy_s, slowest_s)  # which the others wait for, sooner or later
        exchanges_per_s = {worker: 1 / (s + between_s) for worker, s in busy_s.items()}
        # One after the other they pass through the server and its link.
        narrow_s = max(self.apply_s, self.queue_s) * sum(exchanges_per_s.values())
        gradients_per_s = sum(steps[worker] * each for worker, each in exchanges_per_s.items())
        return gradients_per_s / max(1.0, narrow_s)

    def __str__(self) -> str:
        fastest, slowest = min(self.steps_s.values()), max(self.steps_s.values())
        return (
            f"a step takes {1e3 * fastest:.3g} to {1e3 * slowest:.3g} ms on average, the slowest "
            f"of a turn {1e3 * slowest * self.spread:.3g} ms, an exchange "
            f"{1e3 * self.exchange_s:.3g} ms and {1e3 * self.queue_s:.3g} ms more for each that "
            f"goes on beside it, averaging {1e3 * self.average_s:.3g} ms, an update "
            f"{1e3 * self.apply_s:.3g} ms"
        )


class Chooser:
    """Proposes changes of mode.

    Args:
        local_steps: steps between pushes, where workers train alone.
        servers: that make an update together.
    """

    def __init__(self, local_steps: int, servers: int = 1) -> None:
        self._local_steps = local_steps
        self._servers = servers
        self._spread = 1.0
        self._queue_s = self._average_s = 0.0
        self._banned: set[str] = set()
        self._before: tuple[str, list[float]] | None = None
        """Of the mode before the last change: its name and its last losses."""
        self._forget()

    def _forget(self) -> None:
        """Begin to look at everything anew."""
        self._seen: dict[int, _Seen] = {}
        self._scarce: set[int] = set()
        """Workers of which it is not known that enough was seen for the next look."""
        self._looks = 0
        self._begun_s = self._now_s = math.nan
        """When each worker had pushed once, and when the last push came."""
        self._gradients = 0
        """Between the two."""

    def pushed(self, worker: int, now_s: float, steps: int, step_s: float, loss: float) -> None:
        """Note that what a worker made of ``steps`` steps came, and this mean loss."""
        if worker not in self._seen:
            self._seen[worker] = _Seen()
            self._scarce.add(worker)
            self._begun_s, self._gradients = now_s, -steps
        self._gradients += steps
        self._now_s = now_s
        seen = self._seen[worker]
        if not math.isnan(seen.answered_s):
            seen.exchanges += 1
            seen.step_s.append(step_s)
            seen.losses.append(loss)
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
        self._scarce.discard(worker)

    def choose(
        self, mode: str, workers: int, apply_s: float, average_s: float = 0.0
    ) -> Choice | None:
        """Return the best mode; None where too little was seen to say. It is the present one if all
        was seen that is waited for, and no other is clearly better.

        Args:
            mode: that the run is in.
            workers: that are there.
            apply_s, average_s: seconds that an update takes, and averaging before it.
        """
        present = CANDIDATES[mode]
        window = ROUNDS if present.mode.own_optimizer else WINDOW
        if len(self._seen) < workers or not self._each_seen(window * LOOKS[self._looks]):
            return None
        losses = [loss for seen in self._seen.values() for loss in seen.losses]
        choice = self._back(mode, losses)
        if choice is None:
            if present.in_rounds:  # elsewhere little is averaged
                self._average_s = average_s
            choice = self._best(present, apply_s)
        stays = choice.mode == mode
        if stays and self._looks + 1 < len(LOOKS):
            self._looks += 1
            self._scarce = set(self._seen)
            return None
        self._before = None if stays else (mode, losses)
        self._forget()
        return choice

    def _each_seen(self, exchanges: float) -> bool:
        """Say whether so many exchanges of every worker were seen. (With thousands of workers this
        is asked often; so of most only once.)"""
        while self._scarce:
            worker = next(iter(self._scarce))
            if self._seen[worker].exchanges < exchanges:
                return False
            self._scarce.discard(worker)
        return True

    def _best(self, present: Candidate, apply_s: float) -> Choice:
        """Return the choice between the present candidate and all others that are not banned."""
        speeds = self._speeds(present, apply_s)
        compared = {one.mode: one for one in self._forecasts(present, speeds)}
        now = compared[present.name]
        margin = 1 + MARGIN / LOOKS[self._looks]
        needed = margin * now.progress_per_s
        allowed = [one for one in compared.values() if one.mode not in self._banned]
        best = max(allowed, key=lambda one: one.progress_per_s)
        if best.progress_per_s <= needed:
            best = now
        does = "which none has" if best is now else f"which {best.mode} has"
        reason = (
            f"gradients/s, times what one is worth: {', '.join(map(str, compared.values()))}; to "
            f"change takes {margin:.3g} times {now.mode}'s, {needed:.3g}, {does}; {speeds}"
        )
        return Choice(best.mode, reason, tuple(compared.values()), margin)

    def _forecasts(self, present: Candidate, speeds: Speeds) -> list[Forecast]:
        """Return what all candidates would do, if each falls as short of what speeds say as the
        present one does."""
        passed_s, said = self._now_s - self._begun_s, speeds.of(present)
        share = self._gradients / passed_s / said if passed_s > 0 else 1.0
        forecasts = []
        for one in CANDIDATES.values():
            gradients_per_s, worth = share * speeds.of(one), one.worth_of(len(speeds.steps_s))
            learns = gradients_per_s * worth
            forecasts.append(Forecast(one.name, gradients_per_s, one is present, worth, learns))
        return forecasts

    def _speeds(self, present: Candidate, apply_s: float) -> Speeds:
        steps = {worker: list(seen.step_s) for worker, seen in self._seen.items()}
        means_s, alone = _means(steps), present.mode.own_optimizer
        if not alone:  # there a push tells of the mean of many steps
            turns = min(map(len, steps.values()))
            slowest_s = fmean(max(own[-turns:][i] for own in steps.values()) for i in range(turns))
            self._spread = max(1.0, slowest_s / max(LEAST_S, *means_s.values()))
        exchanges_s = [median(seen.exchange_s) for seen in self._seen.values()]
        least_s, others = min(exchanges_s), len(exchanges_s) - 1
        if present.in_rounds and others:  # where all begin to travel at once
            self._queue_s = (max(exchanges_s) - least_s) / others
        # Each server makes its part of an update, a worker all of it.
        inner_s = self._servers * apply_s
        own_s = {worker: max(s - alone * inner_s, LEAST_S) for worker, s in means_s.items()}
        return Speeds(
            own_s,
            self._spread,
            least_s,
            self._queue_s,
            self._average_s,
            apply_s,
            inner_s,
            self._local_steps,
        )

    def _back(self, mode: str, losses: list[float]) -> Choice | None:
        """Return the way back from a mode in which the loss rose."""
        first = next(iter(CANDIDATES))
        if self._before is None or mode == first:
            return None
        before, then = self._before
        if min(len(losses), len(then)) < 2:
            return None
        rise = fmean(losses) - fmean(then)
        error = math.sqrt(variance(losses) / len(losses) + variance(then) / len(then))
        if not rise > RISE * error:
            return None
        self._banned.add(mode)
        return Choice(
            before if before not in self._banned else first,
            f"since the change to {mode} the loss rose from {fmean(then):.4f} to "
            f"{fmean(losses):.4f}, {rise / error:.1f} standard errors; it is not tried again",
        )


def _means(steps: Mapping[int, list[float]]) -> dict[int, float]:
    """Return the mean of each worker's steps; that of all if they differ by chance alone."""
    means = {worker: fmean(own) for worker, own in steps.items()}
    count = min(map(len, steps.values()))
    if len(means) < 2 or count < 2:
        return means
    between, within = count * variance(means.values()), fmean(map(variance, steps.values()))
    return means if between > UNEQUAL * within else dict.fromkeys(means, fmean(means.values()))
