"""How a waiting rank sleeps, on a clock of our own."""

from __future__ import annotations

import pytest

from psdp.transport import base
from psdp.transport.base import Backoff


class FakeTime:
    """Stands for the modules ``time`` and ``os``; a yield of the core takes ten milliseconds."""

    def __init__(self) -> None:
        self.now_s = 100.0
        self.slept: list[float] = []
        self.yields = 0

    def monotonic(self) -> float:
        return self.now_s

    def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.now_s += seconds

    def sched_yield(self) -> None:
        self.yields += 1
        self.now_s += 0.01


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> FakeTime:
    fake = FakeTime()
    monkeypatch.setattr(base, "time", fake)
    monkeypatch.setattr(base, "os", fake)
    return fake


def test_sleeps_grow_by_half_from_30_microseconds_to_a_millisecond(clock: FakeTime) -> None:
    backoff = Backoff()
    for _ in range(12):
        backoff.pause(transferring=False)
    growing = [30e-6 * 1.5**n for n in range(9)]
    assert clock.slept == pytest.approx([*growing, 1e-3, 1e-3, 1e-3])
    assert clock.yields == 0


def test_while_a_payload_moves_the_core_is_only_yielded(clock: FakeTime) -> None:
    backoff = Backoff()
    for _ in range(20):
        backoff.pause(transferring=True)
    assert (clock.yields, clock.slept) == (20, [])


def test_a_transfer_that_stands_still_burns_a_core_for_a_quarter_second_only(
    clock: FakeTime,
) -> None:
    backoff = Backoff()
    for _ in range(100):
        backoff.pause(transferring=True)
    assert 25 <= clock.yields <= 26
    assert len(clock.slept) == 100 - clock.yields
    assert clock.slept[-1] == pytest.approx(1e-3)


def test_the_next_transfer_has_its_own_patience(clock: FakeTime) -> None:
    backoff = Backoff()
    for _ in range(40):
        backoff.pause(transferring=True)
    backoff.pause(transferring=False)
    before = clock.yields
    backoff.pause(transferring=True)
    assert clock.yields == before + 1
