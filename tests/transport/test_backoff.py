"""How a waiting rank sleeps, on a clock of our own."""

from __future__ import annotations

import pytest

from psdp.transport import backoff as module
from psdp.transport.backoff import Backoff


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
    monkeypatch.setattr(module, "time", fake)
    monkeypatch.setattr(module, "os", fake)
    return fake


def test_sleeps_grow_by_half_from_30_microseconds_to_a_millisecond(clock: FakeTime) -> None:
    backoff = Backoff()
    for _ in range(1 + 12):
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
    assert len(clock.slept) == 100 - clock.yields - 1, "asked a second time before the first sleep"
    assert clock.slept[-1] == pytest.approx(1e-3)


def test_the_next_transfer_has_its_own_patience(clock: FakeTime) -> None:
    backoff = Backoff()
    for _ in range(40):
        backoff.pause(transferring=True)
    backoff.pause(transferring=False)
    before = clock.yields
    backoff.pause(transferring=True)
    assert clock.yields == before + 1


class Bell:
    """Rings in the sleeps of these numbers, and hears how long each was to be."""

    def __init__(self, rings: set[int]) -> None:
        self.rings = rings
        self.slept: list[float] = []

    def __call__(self, seconds: float) -> bool:
        self.slept.append(seconds)
        return len(self.slept) - 1 in self.rings


def test_a_bell_makes_the_next_sleeps_short_again(clock: FakeTime) -> None:
    bell = Bell(rings={2})
    backoff = Backoff(bell)
    for _ in range(1 + 3 + 1 + 2):  # it asks again at once at the start, and after the bell
        backoff.pause(transferring=False)
    first = [30e-6, 45e-6, 67.5e-6]
    assert bell.slept == pytest.approx([*first, *first[:2]])
    assert clock.slept == []


def test_where_all_ring_sleeps_are_few_and_long_but_end(clock: FakeTime) -> None:
    bell = Bell(rings=set())
    backoff = Backoff(bell, all_ring=True)
    for _ in range(1 + 6):
        backoff.pause(transferring=False)
    assert bell.slept == pytest.approx([30e-6, 150e-6, 750e-6, 3.75e-3, 10e-3, 10e-3])
