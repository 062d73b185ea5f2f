"""A run that goes over from one mode to another, as it is told."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from statistics import fmean

from psdp.protocol.events import (
    Drained,
    Effect,
    Event,
    Leave,
    Move,
    Pull,
    Push,
    SendWeights,
    Stop,
    Switch,
)
from psdp.protocol.policy import Policy

SPEEDS = 8
"""Pushes of a worker over which the time of its steps is averaged."""


@dataclass(frozen=True)
class Phase:
    """What the policy of a part of the run is to begin with: its workers, the gradients still to be
    accepted, the version, and how long a step of each worker takes."""

    workers: Iterable[int]
    budget: int
    version: int
    step_s: Mapping[int, float]


class Adaptive:
    """Decides as a :class:`Policy` does, by that of one mode at a time.

    A :class:`Switch` is a stop and a resume in one: no new work is handed out, what is out comes
    home and is applied, and the other mode's policy goes on with what is left of the budget and the
    workers that wait by then. Each policy counts clocks from its own beginning, so that a bound on
    staleness holds within a phase, whatever the workers did alone before it.

    Args:
        start: makes the policy of a candidate, by its name.
        first: the one to begin in.
        workers: that are expected from the start; others may join later.
        budget: gradients still to be accepted.
        deals: whether batches are dealt out, and not numbered by each worker's clock.
        version: updates applied so far.
        clocks: gradients accepted so far of each worker (default 0).

    Attributes:
        mode: the present one, by its name.
        drained: whether the last update is decided.
    """

    def __init__(
        self,
        start: Callable[[str, Phase], Policy],
        first: str,
        workers: Iterable[int],
        budget: int,
        *,
        deals: bool = False,
        version: int = 0,
        clocks: Mapping[int, int] | None = None,
    ) -> None:
        known = clocks or {}
        self._start = start
        self._budget = budget
        self._deals = deals
        self._before = {worker: known.get(worker, 0) for worker in workers}
        self._steps_s: dict[int, deque[float]] = {}
        self._here: set[int] = set()
        """Workers that have asked for weights, or moved: all that wait, once nothing is out."""
        self._earlier_gaps: Counter[int] = Counter()
        self._next: str | None = None
        self._stopped = False
        self.drained = False
        self.mode = first
        self._policy = start(first, Phase(self._before, budget, version, {}))

    @property
    def clocks(self) -> dict[int, int]:
        """Gradients accepted of each live worker."""
        return {worker: self._before[worker] + n for worker, n in self._policy.clocks.items()}

    @property
    def version(self) -> int:
        """Updates applied."""
        return self._policy.version

    @property
    def clock_gaps(self) -> Counter[int]:
        """As of a :class:`Policy`, each within its phase."""
        return self._earlier_gaps + self._policy.clock_gaps

    def handle(self, event: Event) -> list[Effect]:
        """Return what to do, in order; see :meth:`Policy.handle`."""
        match event:
            case Pull(worker):
                self._here.add(worker)
                self._before.setdefault(worker, min(self._before.values(), default=0))
            case Move(worker) if worker in self._policy.clocks:
                self._here.add(worker)
            case Leave(worker):
                self._here.discard(worker)
                self._steps_s.pop(worker, None)
            case Stop():
                self._stopped = True
            case Switch(mode):
                self._next = mode
                event = Stop()
        return self._ask(self._inward(event))

    def _inward(self, event: Event) -> Event:
        """Return an event as the present phase counts."""
        if not isinstance(event, Push):
            return event
        before, work = self._before.get(event.worker, 0), event.work
        batch = work.batch if self._deals else work.batch - before
        return replace(event, work=replace(work, clock=work.clock - before, batch=batch))

    def _ask(self, event: Event) -> list[Effect]:
        inner = self._policy.handle(event)
        if isinstance(event, Push):
            # The policy has found it in order.
            self._budget -= event.work.steps
            own = self._steps_s.setdefault(event.worker, deque(maxlen=SPEEDS))
            own.append(event.work.step_s)
        effects: list[Effect] = []
        for effect in inner:
            effects += self._outward(effect)
        return effects

    def _outward(self, effect: Effect) -> list[Effect]:
        """Return what an effect of the present phase is for the run."""
        match effect:
            case SendWeights(worker, clock=clock, batch=batch):
                before = self._before[worker]
                clock, batch = clock + before, batch if self._deals else batch + before
                return [replace(effect, clock=clock, batch=batch)]
            case Drained() if self._next is not None and not self._stopped and self._budget > 0:
                return self._begin(self._next)
            case Drained():
                self.drained = True
        return [effect]

    def _begin(self, mode: str) -> list[Effect]:
        """Go on in another mode with all who wait: nothing is out."""
        self._before |= self.clocks
        self._earlier_gaps = self.clock_gaps
        self.mode, self._next = mode, None
        live, step_s = (
            self._policy.clocks,
            {worker: fmean(s) for worker, s in self._steps_s.items()},
        )
        self._policy = self._start(mode, Phase(live, self._budget, self.version, step_s))
        effects: list[Effect] = []
        for worker in sorted(self._here):
            effects += self._ask(Pull(worker))
        return effects
