"""What a rank is told from outside while it runs, and tells."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from psdp.records.replay import Script

Asked = Callable[[], str | None]
"""Returns the name of a signal by which somebody asked a rank to end, or None."""

Gone = Callable[[], Collection[tuple[int, str]]]
"""Returns the ranks that are no more, as far as the launcher has told since, and why it does."""


def _as_before(asked: Asked) -> Asked:
    return asked


def _unsaid() -> None:
    pass


@dataclass(frozen=True)
class Asking:
    """What a rank is told from outside, and tells.

    Attributes:
        asked: whether it is to end.
        gone: which others are gone.
        limit: returns what asks who leads to end, of what asks any rank.
        leads: is called when this rank begins to lead in place of another.
        stands_by: is called when it may come to.
        survives: the MPI goes on when a rank is lost.
        lease_s: after so long a silence the launcher takes a rank for dead.
        script: returns what is to happen, and when, in place of what comes and the clock.
    """

    asked: Asked = lambda: None
    gone: Gone = list
    limit: Callable[[Asked], Asked] = _as_before
    leads: Callable[[], None] = _unsaid
    stands_by: Callable[[], None] = _unsaid
    survives: bool = False
    lease_s: float | None = None
    script: Callable[[], Script] | None = None
