"""Synchronous rounds: one gradient of every live worker, one update."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from psdp.protocol.events import Apply, Effect, Push
from psdp.protocol.policy import Policy


class Synchronous(Policy):
    """A round closes when every gradient that was asked for is in.

    They are averaged weighted by tokens and in rank order, so that a run repeats bit for bit.
    A worker that dies after its push still counts in the round; one that dies before does not.
    """

    def __init__(
        self,
        workers: Iterable[int],
        pushes: int | None = None,
        *,
        version: int = 0,
        clocks: Mapping[int, int] | None = None,
    ) -> None:
        self._round: dict[int, Push] = {}
        super().__init__(workers, pushes, version=version, clocks=clocks)

    def _accept(self, push: Push) -> list[Effect]:
        self._round[push.rank] = push
        return self._close()

    def _may_go(self, rank: int) -> bool:
        return not self._round

    def _after_leave(self) -> list[Effect]:
        return self._close()

    def _idle(self) -> bool:
        return not self._round

    def _close(self) -> list[Effect]:
        if self._granted or not self._round:
            return []
        pushes = [self._round[rank] for rank in sorted(self._round)]
        self._round.clear()
        tokens = sum(push.tokens for push in pushes)
        lags = tuple(self.version - push.version for push in pushes)
        self.version += 1
        return [
            Apply(
                slots=tuple(push.slot for push in pushes),
                weights=tuple(push.tokens / tokens for push in pushes),
                tokens=tokens,
                lags=lags,
                version=self.version,
            )
        ]
