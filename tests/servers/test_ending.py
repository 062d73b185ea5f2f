"""What is told of a run that ends early is what ended it, and what became of its weights."""

from __future__ import annotations

from pathlib import Path
from typing import NoReturn

import pytest

from psdp.errors import DataError
from psdp.records.reasons import StoppedBy
from psdp.servers.ending import Ending
from psdp.transport.world import Gone


def ending(saving: BaseException, reasons: list[StoppedBy]) -> Ending:
    """Return one that fails to save."""

    def save(_deadline: float) -> Path | None:
        raise saving

    return Ending(lambda _deadline: None, reasons.append, save)


@pytest.mark.parametrize(
    ("error", "text"),
    [(OSError("disk full"), "disk full"), (MemoryError(), "MemoryError")],
)
def test_weights_that_are_not_saved_are_told_of_with_the_reason(
    error: BaseException, text: str
) -> None:
    reasons: list[StoppedBy] = []
    with pytest.raises(DataError, match="no such text") as told:
        ending(error, reasons).end(DataError("no such text"))
    assert told.value.__notes__ == [f"the weights so far could not be saved: {text}"]
    assert reasons == [StoppedBy.ERROR]


def test_a_rank_that_is_no_more_does_nothing_else() -> None:
    reasons: list[StoppedBy] = []

    def unsaved(_deadline: float) -> NoReturn:
        raise AssertionError

    with pytest.raises(Gone):
        Ending(unsaved, reasons.append, unsaved).end(Gone())
    assert reasons == []
    with pytest.raises(Gone):
        ending(Gone(), reasons).end(DataError("no such text"))
