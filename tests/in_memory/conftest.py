"""What holds for all jobs in memory."""

from typing import NoReturn

import pytest

from psdp import rank
from psdp.servers.ending import Ending
from psdp.transport.in_memory import Aborted, Killed


@pytest.fixture(autouse=True)
def _the_dead_do_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """A thread that is told that its rank is dead saves nothing and says nothing."""
    end, tell = Ending.end, rank.tell

    def ending(self: Ending, error: BaseException) -> NoReturn:
        if isinstance(error, Killed):
            raise error
        end(self, error)

    def telling(number: int, error: BaseException) -> int:
        return 1 if isinstance(error, Killed | Aborted) else tell(number, error)

    monkeypatch.setattr(Ending, "end", ending)
    monkeypatch.setattr(rank, "tell", telling)
