"""What all modes share: who lives, who may compute, and how much of the budget is left.

Computing a gradient takes a *grant*. There are as many as the budget has gradients: a worker gets
one, or as many as its local steps, with each answer and spends them with its push; those of a
worker that dies are given out again. So exactly the budget is computed, whoever is fast, and a run
ends when no grant is left and none out.
A mode that drops late gradients grants more, and counts what it accepts.

An event costs no more than a logarithm of the workers, those apart that it lets go on, so that
thousands can be served, and simulated. Only where steps are paced all speeds are looked at, and
when the last worker leaves the least clock, those clocks that there are.
"""

from __future__ import annotations

import heapq
import math
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterable, Mapping

from psdp.errors import ProtocolError
from psdp.modes import Pushed
from psdp.protocol.deal import Deck
from psdp.protocol.events import (
    Drained,
    Drop,
    Effect,
    Event,
    Leave,
    Move,
    Pull,
    Push,
    SendWeights,
    Stop,
    Work,
)


class Policy(ABC):
    """Decides for a job: rank 0 asks it, the other servers do the same in the same order.

    Args:
        workers: that are expected from the start; others may join later.
        budget: gradients still to be accepted; None for no end.
        push: what workers are to push.
        local_steps: gradients that a worker computes before it pushes what became of them.
        paced: this many by the fastest worker, and by a slower one as many as it can in that time,
            so that all come back after about as long (dynamic local updates, Liu et al. 2024,
            arXiv:2401.09135).
        step_s: what is known of how long a step of each worker takes, where steps are paced.
        deck: deals out the batches; without one each worker has its own, numbered by its clock.
        version: updates applied so far.
        clocks: gradients accepted so far of each worker (default 0).

    Attributes:
        clocks: of the live workers.
        version: updates applied.
        drained: whether the last update is decided.
        clock_gaps: of each time that a worker was told to go on, by how many clocks it was ahead of
            the slowest live one; how many of each.
    """

    def __init__(
        self,
        workers: Iterable[int],
        budget: int | None = None,
        *,
        push: Pushed = Pushed.GRADIENT,
        local_steps: int = 1,
        paced: bool = False,
        step_s: Mapping[int, float] | None = None,
        deck: Deck | None = None,
        version: int = 0,
        clocks: Mapping[int, int] | None = None,
    ) -> None:
        known = clocks or {}
        self.clocks = {worker: known.get(worker, 0) for worker in sorted(workers)}
        self.version = version
        self.clock_gaps: Counter[int] = Counter()
        self._budget = budget
        self._push = push
        self._local_steps = local_steps
        self._paced = paced
        self._step_s = dict(step_s or {})
        self._deck = deck
        self._granted: dict[int, range] = {}
        """Numbers of the batches that each worker was told to compute."""
        self._out = 0
        """Gradients that are granted."""
        self._waiting: set[int] = set()
        self._queue: list[tuple[int, int]] = []
        """Those that wait by (clock, worker), the least first; an entry that is not true any more
        is passed over."""
        self._at_clock = Counter(self.clocks.values())
        """How many live workers are at each clock that any is at."""
        self._least_clock = min(self._at_clock, default=0)
        self._stopped = False
        self.drained = False
        for worker in sorted(self.clocks, key=self.clocks.__getitem__):
            self._try_grant(worker)

    def handle(self, event: Event) -> list[Effect]:
        """Return what to do, in order.

        Raises:
            ProtocolError: a push that was never asked for, or out of order.
        """
        effects: list[Effect] = []
        match event:
            case Push():
                effects = self._receive(event)
            case Pull(worker):
                if worker not in self.clocks:
                    self._count(worker, self._least_clock)
                effects = self._go_on(worker)
            case Move(worker) if worker in self.clocks:
                # The rank before may have been lost before it asked, and this one does not.
                effects = self._go_on(worker)
            case Leave(worker):
                self._forget(worker)
                effects = self._settle()
            case Stop():
                self._stopped = True
        self._release(effects)
        return effects

    @abstractmethod
    def _accept(self, push: Push) -> list[Effect]:
        """Take a gradient that is in order; say what becomes of it now."""

    @abstractmethod
    def _may_go(self, lead: int) -> bool:
        """Say whether an idle worker so many clocks ahead of the slowest live one may compute its
        next gradient. If it may not, no other may that waits behind it: of a higher clock, or of a
        higher number with the same."""

    def _too_late(self, work: Work) -> bool:
        """Say whether a gradient that is in order has no use any more."""
        return False

    def _settle(self) -> list[Effect]:
        """Say what is decided once a gradient that was out will not count: its worker has left, or
        it came too late."""
        return []

    def _idle(self) -> bool:
        """Say whether no accepted gradient still waits to be applied."""
        return True

    def _receive(self, push: Push) -> list[Effect]:
        work, worker = push.work, push.worker
        batches = self._granted.get(worker)
        if batches is None:
            raise ProtocolError(
                f"worker {worker} pushed gradient {work.clock} without having been answered"
            )
        clock = self.clocks[worker]
        asked = work.clock == clock and work.batch == batches.start and work.steps == len(batches)
        if not asked or work.version > self.version:
            raise ProtocolError(
                f"worker {worker} pushed {_gradients(work.clock, work.batches)} on version "
                f"{work.version}; expected {_gradients(clock, batches)} on version {self.version} "
                "at most"
            )
        del self._granted[worker]
        self._out -= work.steps
        self._step_s[worker] = work.step_s
        if self._too_late(work):
            self._give_back(batches)
            self._wait(worker)
            return [Drop(worker, push.slot), *self._settle()]
        self._count(worker, clock + work.steps)
        if self._budget is not None:
            self._budget -= work.steps
        effects = self._accept(push)
        self._wait(worker)
        return effects

    def _go_on(self, worker: int) -> list[Effect]:
        """Tell a worker what it was told already, or let it wait."""
        if worker in self._granted and not self.drained:
            return [self._answer(worker)]
        self._wait(worker)
        return []

    def _count(self, worker: int, clock: int) -> None:
        """Note that a live worker is at this clock."""
        self._at_clock[clock] += 1
        self._leave_clock(worker)
        self.clocks[worker] = clock

    def _leave_clock(self, worker: int) -> None:
        """Note that a worker is not at its clock any more, if it was known."""
        clock = self.clocks.get(worker)
        if clock is None:
            return
        self._at_clock[clock] -= 1
        if not self._at_clock[clock]:
            del self._at_clock[clock]
            if clock == self._least_clock:
                self._least_clock = min(self._at_clock, default=0)

    def _wait(self, worker: int) -> None:
        if worker not in self._waiting:
            self._waiting.add(worker)
            heapq.heappush(self._queue, (self.clocks[worker], worker))

    def _forget(self, worker: int) -> None:
        self._leave_clock(worker)
        self.clocks.pop(worker, None)
        self._step_s.pop(worker, None)
        self._waiting.discard(worker)
        batches = self._granted.pop(worker, range(0))
        self._out -= len(batches)
        self._give_back(batches)

    def _give_back(self, batches: range) -> None:
        if self._deck is not None and batches:
            self._deck.give_back(batches)

    def _release(self, effects: list[Effect]) -> None:
        """Let go whoever may; add to the effects what they are told, and the end."""
        queue = self._queue
        while queue:
            clock, worker = queue[0]
            if worker in self._waiting and self.clocks[worker] == clock:
                if not self._try_grant(worker):
                    break
                self._waiting.remove(worker)
                effects.append(self._answer(worker))
            heapq.heappop(queue)
        if not self.drained and self._at_rest() and self.clocks:
            self.drained = True
            effects.append(Drained(self.version))

    def _at_rest(self) -> bool:
        """Say whether nothing more is to be computed or applied."""
        return not self._granted and self._idle() and (self._stopped or self._left() <= 0)

    def _left(self) -> float:
        """Return how much of the budget is not granted."""
        return math.inf if self._budget is None else self._budget - self._out

    def _steps_for(self, worker: int, left: float) -> int:
        """Return how many gradients a worker that may go computes before its next push, if so much
        of the budget is left for all."""
        own = self._step_s.get(worker, 0.0) if self._paced else 0.0
        if not own:
            return self._local_steps
        return max(1, round(self._local_steps * min(self._step_s.values()) / own))

    def _try_grant(self, worker: int) -> bool:
        clock = self.clocks[worker]
        lead = clock - self._least_clock
        left = self._left()
        if left <= 0 or self._stopped or self.drained or not self._may_go(lead):
            return False
        steps = int(min(self._steps_for(worker, left), left))
        deck = self._deck
        batches = range(clock, clock + steps) if deck is None else deck.take(steps)
        self._granted[worker] = batches
        self._out += len(batches)
        self.clock_gaps[lead] += 1
        return True

    def _answer(self, worker: int) -> SendWeights:
        batches = self._granted[worker]
        clock, steps = self.clocks[worker], len(batches)
        return SendWeights(worker, self.version, clock, steps, batches.start, self._push)


def _gradients(clock: int, batches: range) -> str:
    more = f" and {len(batches) - 1} after it" if len(batches) > 1 else ""
    return f"gradient {clock}{more} of batch {batches.start}"
