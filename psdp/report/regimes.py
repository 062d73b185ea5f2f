"""What makes the workers of a scenario unequal, or what else takes their time: measured, and where
runs did not measure it, what was set on purpose."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from psdp.config.handicap import parse_jitter
from psdp.report.breakdown import Breakdown
from psdp.report.formats import listed, number, percent, size
from psdp.report.rows import Row
from psdp.report.scenarios import Scenario

SLOWER = 1.5
"""A worker whose steps take so many times as long as the fastest's is a straggler."""

CHANCE, VARIES = 0.1, 0.25
"""Steps are uneven by chance where waiting for the slowest of a round takes such a part of the
time; where there are no rounds, where they vary by so much of their mean."""

UPDATE, EXCHANGE, CORES = 0.25, 0.3, 0.25
"""Parts of the time from which on updates, exchanges, and the lack of cores make a regime."""

EXCHANGE_WHEN_SHORT = 0.5
"""The same of exchanges in shared memory where cores are short: each needs that several ranks have
one in turn, so that they suffer more from it than steps do."""

FETCH_S, FETCHING, FULL = 1e-4, 0.1, 0.8
"""Memory is short where waiting for pages from a disk takes such a part of the time, even if a page
takes no longer than from a good disk, and the ranks of a host had such a part of its memory.
Without the latter a corpus that is read for the first time would look like it."""

ROUNDS = 1000
"""Rounds that are drawn to see what a jitter does that was set and not measured."""

VECTOR_BYTES = 100_000
"""From so many bytes of a vector on it is slow for its size over a link; what is smaller, for being
sent at all."""

STRAGGLER, PASSING, RANDOM, LINK, EQUAL = (
    "constant straggler",
    "passing straggler",
    "random stragglers",
    "slow link",
    "equal workers",
)
SLOW_UPDATE, EXCHANGE_BOUND, SHORT, SHORT_OF_MEMORY, UNKNOWN = (
    "slow update",
    "exchange-bound",
    "short of cores",
    "short of memory",
    "not known",
)


@dataclass(frozen=True)
class Cause:
    """A regime, the seconds of a gradient that it takes, and what was measured of it."""

    name: str
    takes_s: float
    reason: str


def regimes(scenario: Scenario) -> list[str]:
    """Return the names of the regimes, that which takes most time first."""
    return [cause.name for cause in causes(scenario)]


def regime_sentence(scenario: Scenario) -> str:
    """Return the sentence that names the regimes, with the reason for each."""
    found = causes(scenario)
    names = " and ".join(cause.name for cause in found)
    text = f"Regime: {names} ({'; '.join(cause.reason for cause in found)})."
    purpose = _on_purpose(scenario)
    if purpose:
        text += f" Set on purpose: {listed([reason for _, reason in purpose])}."
    return text


def causes(scenario: Scenario) -> list[Cause]:
    """Return the regimes: of the first row in lock-step that measured where its time went, or else
    of the first that did."""
    rows = sorted(scenario.rows, key=lambda row: not row.kind.exact)
    measured = next((row for row in rows if row.breakdown is not None), None)
    if measured is not None:
        return _measured(scenario, measured)
    return _of_older(scenario, rows)


def _measured(scenario: Scenario, row: Row) -> list[Cause]:
    parts = row.breakdown
    assert parts is not None
    found = [
        # A rank that waits for a page looks like one that waits for a core.
        *(_short_of_memory(row, parts) or _short_of_cores(scenario, row, parts)),
        *_stragglers(scenario, parts),
        *_by_chance(scenario, row, parts),
        *_update(row, parts),
        *_exchange(scenario, row, parts),
    ]
    steps = f"steps take {_ms(min(parts.steps_s), max(parts.steps_s))} and vary by "
    steps += f"{percent(parts.varies)}"
    idle = f"in {row.label} workers compute for {percent(parts.share(parts.step_s))} of the time"
    if not found:
        return [Cause(EQUAL, parts.total_s, f"{steps}; {idle}")]
    return sorted(found, key=lambda cause: -cause.takes_s)


def _stragglers(scenario: Scenario, parts: Breakdown) -> list[Cause]:
    slowest, fastest = max(parts.steps_s), min(parts.steps_s)
    if slowest < SLOWER * fastest:
        return []
    worker = parts.steps_s.index(slowest) + 1
    times = number(slowest / fastest)
    why = f"worker {worker} takes {times} times as long as the fastest"
    return [Cause(_straggler(scenario, worker), parts.behind_s, why)]


def _straggler(scenario: Scenario, worker: int) -> str:
    """Return what a slow worker is called, by whether it was slowed for a while alone."""
    return PASSING if worker in scenario.spells else STRAGGLER


def _by_chance(scenario: Scenario, row: Row, parts: Breakdown) -> list[Cause]:
    slowest, fastest = max(parts.steps_s), min(parts.steps_s)
    uneven_s = parts.chance_s
    if slowest < SLOWER * fastest:
        uneven_s += parts.behind_s  # some worker has had less luck than others
    share = parts.share(uneven_s)
    varies = f"a worker's steps vary by {percent(parts.varies)} of their mean"
    if share >= CHANCE and scenario.workers > 1:
        waits = f"waiting for the slowest of a round takes {percent(share)} of the time"
        return [Cause(RANDOM, uneven_s, f"{varies}, and in {row.label} {waits}")]
    if parts.chance_s == 0 and parts.varies >= VARIES and scenario.workers > 1:
        return [Cause(RANDOM, 0.0, varies)]
    return []


def _update(row: Row, parts: Breakdown) -> list[Cause]:
    share = parts.share(parts.update_s)
    if share < UPDATE:
        return []
    times = f"{_ms(parts.update_s)}, a step {_ms(parts.step_s)}"
    why = f"in {row.label} the server's update takes {percent(share)} of the time: {times}"
    return [Cause(SLOW_UPDATE, parts.update_s, why)]


def _exchange(scenario: Scenario, row: Row, parts: Breakdown) -> list[Cause]:
    share = parts.share(parts.exchange_s)
    short = not row.linked and parts.cores_s >= CORES * parts.total_s
    if share < (EXCHANGE_WHEN_SHORT if short else EXCHANGE):
        return []
    sent = parts.exchanged_bytes
    text = f"in {row.label} exchanges take {percent(share)} of the time: {_ms(parts.exchange_s)}"
    vector = sent / (2 * scenario.workers)
    if row.linked and vector >= VECTOR_BYTES:
        return [Cause(LINK, parts.exchange_s, f"{text} for {size(sent)} in all")]
    return [Cause(EXCHANGE_BOUND, parts.exchange_s, f"{text}, a step {_ms(parts.step_s)}")]


def _short_of_cores(scenario: Scenario, row: Row, parts: Breakdown) -> list[Cause]:
    if parts.cores_s < CORES * parts.total_s or row.circumstances.get("threads used", "1") != "1":
        return []  # of threads beside the first it is not measured when they have no core
    text = f"for want of cores, all takes {number(parts.total_s / parts.own_s)} times as long"
    if "machine" in row.circumstances:
        ranks = scenario.workers + int(row.settings.get("servers") or 0)
        text += f": {ranks} ranks on {row.circumstances['machine']}"
    return [Cause(SHORT, parts.cores_s, text)]


def _short_of_memory(row: Row, parts: Breakdown) -> list[Cause]:
    memory = row.memory
    if memory is None or memory.share < FULL:
        return []
    takes_s = FETCH_S * memory.faults
    share = takes_s / parts.total_s
    if share < FETCHING:
        return []
    had = f"{size(memory.peak_bytes)} of the {size(memory.whole_bytes)} of {memory.host}"
    text = f"in {row.label} ranks had {had}, and waited for {number(memory.faults)} pages from a "
    text += f"disk a gradient, which is {percent(share)} of the time if each takes but "
    return [Cause(SHORT_OF_MEMORY, takes_s, f"{text}{_ms(FETCH_S)}")]


def _ms(low_s: float, high_s: float | None = None) -> str:
    if high_s is None:
        return f"{number(1e3 * low_s)} ms"
    return f"{number(1e3 * low_s)} to {number(1e3 * high_s)} ms"


# What older runs did not measure


def _on_purpose(scenario: Scenario) -> list[tuple[str, str]]:
    """Return what was slowed on purpose, by regime, in words."""
    found = []
    slow = {n: factor for n, factor in scenario.stragglers.items() if factor > 1}
    for name in (STRAGGLER, PASSING):
        spell = " for a while" if name == PASSING else ""
        each = [
            f"worker {n} takes {factor:g} times as long a step{spell}"
            for n, factor in slow.items()
            if _straggler(scenario, n) == name
        ]
        if each:
            found.append((name, listed(each)))
    jitter = parse_jitter(scenario.jitter)
    if jitter.varies:
        found.append((RANDOM, f"steps are slowed by chance, {scenario.jitter}"))
    elif jitter.mean > 1:
        alike = f"all steps are slowed alike, {jitter.mean:g} times ({scenario.jitter})"
        found.append((EQUAL, alike))
    if scenario.link_mbps:
        worse = f", {scenario.link_spells}" if scenario.link_spells else ""
        found.append((LINK, f"links have {scenario.link_mbps:g} Mbit/s{worse}"))
    return found


def _of_older(scenario: Scenario, rows: list[Row]) -> list[Cause]:
    purpose = [each for each in _on_purpose(scenario) if _is_enough(scenario, each[0])]
    if purpose:
        return [Cause(name, 0.0, f"set on purpose: {reason}") for name, reason in purpose]
    for row in rows:
        if row.step_s is not None and max(row.step_s) >= SLOWER * min(row.step_s):
            worker = row.step_s.index(max(row.step_s)) + 1
            times = number(max(row.step_s) / min(row.step_s))
            why = f"worker {worker} takes {times} times as long as the fastest"
            return [Cause(_straggler(scenario, worker), 0.0, why)]
    exact = [row for row in rows if row.kind.exact and row.shares]
    idle = [sum(row.mean_share(part) for part in ("push", "wait", "pull")) for row in exact[:1]]
    if scenario.workers > 1 and (not idle or idle[0] >= EXCHANGE):
        why = "the time of these runs is virtual, or they did not time their steps one by one"
        if idle:
            why += (
                f": in {exact[0].label} workers do not compute for {percent(idle[0])} of the time"
            )
        return [Cause(UNKNOWN, 0.0, why)]
    why = "what is slowed on purpose is too little to matter"
    return [Cause(EQUAL, 0.0, why if _on_purpose(scenario) else "nothing is slowed on purpose")]


def _is_enough(scenario: Scenario, name: str) -> bool:
    """Say whether what was slowed on purpose makes a regime, by what is asked of measured ones."""
    if name in (STRAGGLER, PASSING):
        return max(scenario.stragglers.values()) >= SLOWER
    if name == RANDOM:
        return scenario.workers > 1 and _waiting(scenario) >= CHANCE
    return name == LINK


def _waiting(scenario: Scenario) -> float:
    """Return the part of the time for which workers wait for the slowest step of a round, by its
    jitter alone, as some rounds that are drawn have it."""
    draw, rng = parse_jitter(scenario.jitter).draw, np.random.default_rng(0)
    rounds = np.array([[draw(rng) for _ in range(scenario.workers)] for _ in range(ROUNDS)])
    return float(1 - rounds.mean() / rounds.max(axis=1).mean())
