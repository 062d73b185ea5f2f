"""Costs by kind of work, on a clock of our own."""

from __future__ import annotations

import pytest

from psdp.records.profile import UNPROFILED, Cost, Profile


class Clock:
    """A clock that the test moves."""

    def __init__(self) -> None:
        self.now_s = 50.0

    def __call__(self) -> float:
        return self.now_s

    def pass_s(self, seconds: float) -> None:
        self.now_s += seconds


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def profile(clock: Clock) -> Profile:
    return Profile(clock)


def test_a_span_does_not_count_what_is_spent_in_spans_inside_it(
    profile: Profile, clock: Clock
) -> None:
    with profile.span("step"):
        clock.pass_s(1)
        with profile.span("layer"):
            clock.pass_s(2)
            with profile.span("inner"):
                clock.pass_s(4)
            clock.pass_s(8)
        clock.pass_s(16)
    assert {kind: cost.seconds for kind, cost in profile.costs.items()} == {
        "step": 17,
        "layer": 10,
        "inner": 4,
    }


def test_time_outside_of_spans_is_not_counted(profile: Profile, clock: Clock) -> None:
    for _ in range(2):
        clock.pass_s(100)
        with profile.span("step"):
            clock.pass_s(1)
    assert profile.costs == {"step": Cost(calls=2, seconds=2)}


def test_an_exception_ends_its_span(profile: Profile, clock: Clock) -> None:
    def layer() -> None:
        with profile.span("step"), profile.span("layer"):
            clock.pass_s(3)
            raise ValueError("bad")

    with pytest.raises(ValueError, match="bad"):
        layer()
    assert not profile.running
    assert profile.costs["layer"].seconds == 3


def test_a_kind_inside_itself_is_called_once(profile: Profile, clock: Clock) -> None:
    with profile.span("linear"), profile.span("linear"):
        clock.pass_s(1)
    assert profile.costs["linear"] == Cost(calls=1, seconds=1)


def test_arithmetic_and_traffic_count_for_the_innermost_span(profile: Profile) -> None:
    with profile.span("step"), profile.span("layer", traffic=8):
        profile.count(flops=100.0, traffic=32)
    assert profile.costs["layer"] == Cost(calls=1, flops=100.0, bytes=40)
    assert profile.costs["step"] == Cost(calls=1)


def test_what_was_measured_elsewhere_is_added(profile: Profile) -> None:
    profile.add("push", 0.25, traffic=64)
    profile.add("push", 0.5)
    assert profile.costs["push"] == Cost(calls=2, seconds=0.75, bytes=64)


def test_the_table_is_by_step_and_the_most_expensive_kind_is_first(
    profile: Profile, clock: Clock
) -> None:
    for _ in range(2):
        with profile.span("other"):
            clock.pass_s(0.001)
            with profile.span("linear", traffic=4_000_000):
                profile.count(flops=6e8, traffic=0)
                clock.pass_s(0.006)
        profile.add("wait", 0.0005)
        profile.step()
    assert [line.split() for line in profile.table().splitlines()] == [
        ["ms/step", "share", "calls/step", "GFLOP/s", "GB/s"],
        ["linear", "6.00", "80.0%", "1", "100.0", "0.7"],
        ["other", "1.00", "13.3%", "1"],
        ["wait", "0.50", "6.7%", "1"],
        ["all", "7.50", "100.0%", "80.0", "0.5"],
    ]


def test_a_profile_without_a_step_has_a_table(profile: Profile) -> None:
    assert profile.table().split()[-3:] == ["all", "0.00", "0.0%"]


def test_the_record_holds_everything(profile: Profile) -> None:
    profile.add("pull", 0.5, traffic=8)
    profile.step()
    assert profile.record() == {
        "steps": 1,
        "costs": {"pull": {"calls": 1, "seconds": 0.5, "flops": 0.0, "bytes": 8}},
    }


def test_nothing_is_noted_where_nobody_asked() -> None:
    with UNPROFILED.span("step"), UNPROFILED.span("layer"):
        UNPROFILED.add("push", 1.0)
    UNPROFILED.step()
    assert (UNPROFILED.costs, UNPROFILED.steps) == ({}, 0)
