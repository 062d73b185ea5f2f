"""Which regime is named: by what was measured, and of older runs by what was set on purpose."""

from __future__ import annotations

from typing import Any

import pytest
from made_rows import parts, row, scenario, share

from psdp.report.breakdown import Breakdown
from psdp.report.memory import Memory
from psdp.report.regimes import regime_sentence, regimes


@pytest.mark.parametrize(
    ("measured", "changes", "names", "text"),
    [
        (
            parts(),
            {},
            ["equal workers"],
            "(steps take 100 to 100 ms and vary by 5 %; in sync workers compute for 91 % of the "
            "time).",
        ),
        (
            parts((0.1, 0.1, 0.1, 0.3)),
            {},
            ["constant straggler"],
            "(worker 4 takes 3.00 times as long as the fastest).",
        ),
        (
            parts(chance_s=0.05, varies=0.4),
            {},
            ["random stragglers"],
            "(a worker's steps vary by 40 % of their mean, and in sync waiting for the slowest of "
            "a round takes 32 % of the time).",
        ),
        (
            parts(update_s=0.1),
            {},
            ["slow update"],
            "(in sync the server's update takes 48 % of the time: 100 ms, a step 100 ms).",
        ),
        (
            parts(exchange_s=0.1),
            {},
            ["exchange-bound"],
            "(in sync exchanges take 49 % of the time: 100 ms, a step 100 ms).",
        ),
        (
            parts(exchange_s=0.1),
            {"linked": True},
            ["slow link"],
            "(in sync exchanges take 49 % of the time: 100 ms for 8.00 MB in all).",
        ),
        (
            parts(exchange_s=0.1, exchanged_bytes=8e4),
            {"linked": True},
            ["exchange-bound"],
            "(in sync exchanges take 49 % of the time: 100 ms, a step 100 ms).",
        ),
        (
            parts(cores_s=0.11),
            {"circumstances": {"machine": "here (a processor, 2 cores)"}},
            ["short of cores"],
            "(for want of cores, all takes 2.00 times as long: 5 ranks on here (a processor, 2 "
            "cores)).",
        ),
        (
            parts((0.1, 0.1, 0.1, 0.3), exchange_s=0.5),
            {},
            ["exchange-bound", "constant straggler"],
            "exchanges take 62 % of the time: 500 ms, a step 150 ms; worker 4 takes 3.00 times",
        ),
    ],
)
def test_the_regime_is_what_takes_the_time(
    measured: Breakdown, changes: dict[str, Any], names: list[str], text: str
) -> None:
    of = scenario(row("sync", 10.0, breakdown=measured, **changes), row("async", 20.0))
    assert regimes(of) == names
    told = regime_sentence(of)
    assert told.startswith(f"Regime: {' and '.join(names)} (")
    assert text in told


def test_a_tiny_model_whose_steps_are_even_is_bound_by_its_exchanges() -> None:
    tiny = parts((0.00050, 0.00051), chance_s=0.00003, update_s=0.0001, exchange_s=0.002)
    assert regimes(scenario(row("sync", 10.0, breakdown=tiny), workers=2)) == ["exchange-bound"]


def test_a_worker_that_is_slow_for_a_while_is_no_constant_straggler() -> None:
    spell: dict[str, Any] = {
        "stragglers": {4: 4.0},
        "spells": {4: "4 times slower from step 5 to 8"},
    }
    slow = row("sync", 10.0, breakdown=parts((0.1, 0.1, 0.1, 0.2)))
    assert regimes(scenario(slow, **spell)) == ["passing straggler"]
    older = scenario(row("sync", 10.0, breakdown=None), **spell)
    assert regimes(older) == ["passing straggler"]
    assert "worker 4 takes 4 times as long a step for a while" in regime_sentence(older)


def test_a_worker_that_has_had_less_luck_is_no_straggler() -> None:
    unlucky = parts((0.10, 0.11, 0.12, 0.12), chance_s=0.006, varies=0.4)
    assert regimes(scenario(row("sync", 10.0, breakdown=unlucky))) == ["random stragglers"]


def test_where_cores_are_short_exchanges_must_take_half_of_the_time() -> None:
    some = parts(exchange_s=0.08, cores_s=0.5)
    assert regimes(scenario(row("sync", 10.0, breakdown=some))) == ["short of cores"]
    most = parts(exchange_s=0.2, cores_s=0.5)
    found = regimes(scenario(row("sync", 10.0, breakdown=most)))
    assert found == ["short of cores", "exchange-bound"], "what takes most of the time comes first"
    assert regimes(scenario(row("sync", 10.0, breakdown=some, linked=True)))[1:] == ["slow link"]


def test_without_rounds_steps_are_uneven_if_they_vary_much() -> None:
    uneven = parts(chance_s=0.0, varies=0.6)
    of = scenario(row("async", 10.0, breakdown=uneven))
    assert regimes(of) == ["random stragglers"]
    assert "a worker's steps vary by 60 % of their mean" in regime_sentence(of)
    assert regimes(scenario(row("async", 10.0))) == ["equal workers"]


def test_that_threads_have_no_core_is_not_measured() -> None:
    several = {"machine": "here", "threads used": "4"}
    short = row("sync", 10.0, breakdown=parts(cores_s=0.11), circumstances=several)
    assert regimes(scenario(short)) == ["equal workers"]


@pytest.mark.parametrize(
    ("faults", "peak_gb", "names"),
    [
        (1000.0, 15, ["short of memory"]),
        (100.0, 15, ["short of cores"]),  # a tenth of the time would be 216
        (1000.0, 12, ["short of cores"]),
    ],
)
def test_memory_is_short_where_it_is_full_and_pages_from_a_disk_take_time(
    faults: float, peak_gb: int, names: list[str]
) -> None:
    had = Memory(faults, "here", peak_gb * 10**9, 16 * 10**9)
    # Who waits for a page does not compute, as who waits for a core.
    slow = row("sync", 10.0, breakdown=parts(cores_s=0.11), memory=had)
    assert regimes(scenario(slow)) == names


def test_a_lack_of_memory_is_told_with_what_was_measured() -> None:
    had = Memory(1000.0, "here", 15 * 10**9, 16 * 10**9)
    told = regime_sentence(scenario(row("sync", 10.0, memory=had)))
    assert told == (
        "Regime: short of memory (in sync ranks had 15.0 GB of the 16.0 GB of here, and waited for "
        "1,000 pages from a disk a gradient, which is 91 % of the time if each takes but 0.100 ms)."
    )


def test_the_row_in_lock_step_tells_the_regime() -> None:
    slow = row("async", 10.0, breakdown=parts(update_s=0.2))
    assert regimes(scenario(slow, row("sync", 10.0))) == ["equal workers"]
    assert regimes(scenario(slow, row("sync", 10.0, breakdown=None))) == ["slow update"]


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        ({"stragglers": {4: 3.0}}, "worker 4 takes 3 times as long a step"),
        ({"jitter": "bernoulli:0.1:4"}, "steps are slowed by chance, bernoulli:0.1:4"),
        ({"link_mbps": 100.0}, "links have 100 Mbit/s"),
        ({"jitter": "uniform:4:4"}, "all steps are slowed alike, 4 times (uniform:4:4)"),
        (
            {"stragglers": {2: 4.0}, "link_mbps": 10.0},
            "worker 2 takes 4 times as long a step and links have 10 Mbit/s",
        ),
    ],
)
def test_what_was_set_on_purpose_is_said_whether_it_shows_or_not(
    settings: dict[str, Any], text: str
) -> None:
    of = scenario(row("sync", 10.0), **settings)
    assert regimes(of) == ["equal workers"]
    assert regime_sentence(of).endswith(f" Set on purpose: {text}.")


# Runs of before steps were timed


@pytest.mark.parametrize(
    ("settings", "changes", "names", "text"),
    [
        ({"stragglers": {4: 3.0}}, {}, ["constant straggler"], "worker 4 takes 3 times as long"),
        ({"link_mbps": 10.0}, {}, ["slow link"], "links have 10 Mbit/s"),
        ({"stragglers": {4: 1.2}}, {}, ["equal workers"], "too little to matter"),
        ({"jitter": "exponential:1"}, {}, ["random stragglers"], "by chance, exponential:1"),
        ({"jitter": "exponential:0.001"}, {}, ["equal workers"], "too little to matter"),
        ({}, {"step_s": (0.1, 0.1, 0.3, 0.1)}, ["constant straggler"], "worker 3 takes 3.00 times"),
        ({}, {"shares": (share(0.6),) * 4}, ["not known"], "do not compute for 40 % of the time"),
        ({}, {"shares": (share(0.8),) * 4}, ["equal workers"], "nothing is slowed on purpose"),
        ({}, {"shares": (), "step_s": None}, ["not known"], "did not time their steps"),
        ({"workers": 1}, {"shares": (), "step_s": None}, ["equal workers"], "nothing is slowed"),
    ],
)
def test_of_older_runs_the_regime_is_what_was_set_or_can_be_told(
    settings: dict[str, Any], changes: dict[str, Any], names: list[str], text: str
) -> None:
    of = scenario(row("sync", 10.0, breakdown=None, **changes), **settings)
    assert regimes(of) == names
    assert text in regime_sentence(of)
