"""How a rank ends: what it says, and the exit status that says the same to a shell."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from typing import Any

import pytest

from psdp.errors import ConfigError, DataError, PeerLost, RankFailed
from psdp.servers.ending import Ended
from psdp.workers.exchange import Interrupted

try:
    from psdp.rank import Signals, tell
except ConfigError as missing:
    pytest.skip(str(missing), allow_module_level=True)


@pytest.fixture
def signals() -> Iterator[Signals]:
    """Take signals as a rank does, and give them back."""
    numbers = (signal.SIGINT, signal.SIGTERM)
    before: dict[int, Any] = {number: signal.getsignal(number) for number in numbers}
    yield Signals()
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.parametrize("error", [DataError("no text"), PeerLost("rank 2 is gone")])
def test_an_error_is_told_in_a_line_and_has_its_own_status(
    error: Any, signals: Signals, capsys: pytest.CaptureFixture[str]
) -> None:
    assert tell(2, error, signals) == error.exit_code
    assert capsys.readouterr().err == f"psdp: rank 2: {error}\n"


def test_rank_0_ends_with_the_status_of_the_rank_that_failed(
    signals: Signals, capsys: pytest.CaptureFixture[str]
) -> None:
    assert tell(0, RankFailed("rank 1 failed", 7), signals) == 7
    assert capsys.readouterr().err == "psdp: rank 0: rank 1 failed\n"


def test_a_mistake_of_ours_shows_where_it_was_made(
    signals: Signals, capsys: pytest.CaptureFixture[str]
) -> None:
    assert tell(1, ZeroDivisionError("x"), signals) == 1
    told = capsys.readouterr().err
    assert told.startswith("psdp: rank 1 failed:\n")
    assert told.endswith("ZeroDivisionError: x\n\n")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_is_the_status_that_shells_give_it_and_only_rank_0_says_so(
    number: signal.Signals, signals: Signals, capsys: pytest.CaptureFixture[str]
) -> None:
    assert signals() is None
    signal.raise_signal(number)
    signal.raise_signal(signal.SIGTERM)
    assert signals() == number.name, "the first one"
    assert tell(1, Interrupted(), signals) == 128 + number
    assert capsys.readouterr() == ("", "")
    assert tell(0, Ended("stopped by it; the weights are kept"), signals) == 128 + number
    assert capsys.readouterr().err == "psdp: stopped by it; the weights are kept\n"
