"""How a rank ends: what it says, and the exit status that says the same to a shell."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from typing import Any

import pytest

from psdp.errors import ConfigError, DataError, PeerLost, RankFailed
from psdp.line import Line
from psdp.servers.ending import TIME_LIMIT, Ended
from psdp.signals import ENDING

try:
    from psdp.rank import Signals, tell, within
except ConfigError as missing:
    pytest.skip(str(missing), allow_module_level=True)


@pytest.fixture
def signals() -> Iterator[Signals]:
    """Take signals as a rank does, and give them back."""
    before: dict[int, Any] = {number: signal.getsignal(number) for number in ENDING}
    yield Signals(Line())
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.parametrize("error", [DataError("no text"), PeerLost("rank 2 is gone")])
def test_an_error_is_told_in_a_line_and_has_its_own_status(
    error: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    assert tell(2, error) == error.exit_code
    assert capsys.readouterr().err == f"psdp: rank 2: {error}\n"


def test_rank_0_ends_with_the_status_of_the_rank_that_failed(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert tell(0, RankFailed("rank 1 failed", 7)) == 7
    assert capsys.readouterr().err == "psdp: rank 0: rank 1 failed\n"


def test_a_mistake_of_ours_shows_where_it_was_made(capsys: pytest.CaptureFixture[str]) -> None:
    assert tell(1, ZeroDivisionError("x")) == 1
    told = capsys.readouterr().err
    assert told.startswith("psdp: rank 1 failed:\n")
    assert told.endswith("ZeroDivisionError: x\n\n")


@pytest.mark.parametrize("number", ENDING)
def test_of_several_signals_the_first_counts(number: signal.Signals, signals: Signals) -> None:
    assert signals() is None
    signal.raise_signal(number)
    signal.raise_signal(signal.SIGTERM)
    assert signals() == number.name


def test_a_run_that_was_told_to_end_has_the_status_of_what_told_it(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert tell(0, Ended("stopped by it; the weights are kept", 130)) == 130
    assert capsys.readouterr().err == "psdp: stopped by it; the weights are kept\n"


@pytest.mark.parametrize(
    ("limit", "end_s"), [("4", 2), ("90", 85), ("10m", 570), ("10:00:00", 35940)]
)
def test_a_time_limit_leaves_time_for_the_checkpoint(limit: str, end_s: float) -> None:
    clock = [0.0]
    asked = within(limit, 100.0, lambda: None, lambda: clock[0])
    clock[0] = 100.0 + end_s - 0.1
    assert asked() is None
    clock[0] = 100.0 + end_s
    assert asked() == TIME_LIMIT


def test_a_signal_comes_before_the_time_limit() -> None:
    assert within("4", 0.0, lambda: "SIGTERM", lambda: 9.0)() == "SIGTERM"
    assert within(None, 0.0, lambda: None, lambda: 9e9)() is None
