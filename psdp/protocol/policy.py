"""What all modes share: who lives, who may compute, and how much of the budget is left.

Computing a gradient takes a *grant*. There are as many as the budget has pushes: a worker gets one
with each answer and spends it with its push; that of a worker that dies is given out again. So
exactly the budget is computed, whoever is fast, and a run ends when no grant is left and none out.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping

from psdp.errors import ProtocolError
from psdp.protocol.events import (
    Drained,
    Effect,
    Event,
    Leave,
    Pull,
    Push,
    SendWeights,
    Stop,
)


class Policy(ABC):
    """Decides for a job: rank 0 asks it, the other servers do the same in the same order.

    Args:
        workers: ranks expected from the start; others may join later.
        pushes: the budget still to be computed; None for no end.
        version: updates applied so far.
        clocks: gradients accepted so far of each worker (default 0).

    Attributes:
        clocks: of the live workers.
        version: updates applied.
        max_clock_gap: the most clocks by which a worker that was told to go on was ahead of the
            slowest live one.
    """

    def __init__(
        self,
        workers: Iterable[int],
        pushes: int | None = None,
        *,
        version: int = 0,
        clocks: Mapping[int, int] | None = None,
    ) -> None:
        known = clocks or {}
        self.clocks = {rank: known.get(rank, 0) for rank in sorted(workers)}
        self.version = version
        self.max_clock_gap = 0
        self._budget = pushes
        self._granted: set[int] = set()
        self._waiting: set[int] = set()
        self._stopped = False
        self._drained = False
        for rank in self._slowest_first(self.clocks):
            self._try_grant(rank)

    def handle(self, event: Event) -> list[Effect]:
        """Return what to do, in order.

        Raises:
            ProtocolError: a push that was never asked for, or out of order.
        """
        effects: list[Effect] = []
        match event:
            case Pull(rank):
                self.clocks.setdefault(rank, min(self.clocks.values(), default=0))
                if rank in self._granted:
                    effects.append(self._answer(rank))
                else:
                    self._waiting.add(rank)
            case Push():
                effects += self._receive(event)
            case Leave(rank):
                self._forget(rank)
                effects += self._after_leave()
            case Stop():
                self._stopped = True
        return effects + self._release()

    @abstractmethod
    def _accept(self, push: Push) -> list[Effect]:
        """Take a gradient that is in order; say what becomes of it now."""

    @abstractmethod
    def _may_go(self, rank: int) -> bool:
        """Say whether this idle live worker may compute its next gradient."""

    def _after_leave(self) -> list[Effect]:
        """Say what the loss of a worker sets free, beyond the workers that waited for it."""
        return []

    def _idle(self) -> bool:
        """Say whether no accepted gradient still waits to be applied."""
        return True

    def _receive(self, push: Push) -> list[Effect]:
        if push.rank not in self._granted:
            raise ProtocolError(
                f"rank {push.rank} pushed gradient {push.clock} without having been answered"
            )
        expected = self.clocks[push.rank]
        if push.clock != expected or push.version > self.version:
            raise ProtocolError(
                f"rank {push.rank} pushed gradient {push.clock} on version {push.version}; "
                f"expected gradient {expected} on version {self.version} at most"
            )
        self._granted.remove(push.rank)
        self.clocks[push.rank] += 1
        self._waiting.add(push.rank)
        return self._accept(push)

    def _forget(self, rank: int) -> None:
        self.clocks.pop(rank, None)
        self._waiting.discard(rank)
        if rank in self._granted:
            self._granted.remove(rank)
            if self._budget is not None:
                self._budget += 1

    def _release(self) -> list[Effect]:
        effects: list[Effect] = []
        for rank in self._slowest_first(self._waiting):
            if self._try_grant(rank):
                self._waiting.remove(rank)
                effects.append(self._answer(rank))
        at_rest = self._exhausted() and not self._granted and self._idle()
        if at_rest and self.clocks and not self._drained:
            self._drained = True
            effects.append(Drained(self.version))
        return effects

    def _exhausted(self) -> bool:
        return self._stopped or self._drained or self._budget == 0

    def _try_grant(self, rank: int) -> bool:
        if self._exhausted() or not self._may_go(rank):
            return False
        if self._budget is not None:
            self._budget -= 1
        self._granted.add(rank)
        self.max_clock_gap = max(self.max_clock_gap, self._lead(rank))
        return True

    def _answer(self, rank: int) -> SendWeights:
        return SendWeights(rank, self.version, self.clocks[rank])

    def _lead(self, rank: int) -> int:
        return self.clocks[rank] - min(self.clocks.values())

    def _slowest_first(self, ranks: Iterable[int]) -> list[int]:
        return sorted(ranks, key=lambda rank: (self.clocks[rank], rank))
