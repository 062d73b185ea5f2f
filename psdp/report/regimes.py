"""What makes the workers of a scenario unequal or its links slow: set on purpose, or measured."""

from __future__ import annotations

from psdp.config.handicap import parse_jitter
from psdp.report.formats import listed, number, percent
from psdp.report.scenarios import Scenario

SLOWER = 1.5
"""A worker whose steps take so many times as long as the fastest's is a straggler."""

EXCHANGE, TRANSFER = 0.3, 0.1
"""Parts of a synchronous worker's time: where it does not compute for so much of it, workers wait
for one another; if so much is pushing and pulling over a link, for that."""

STRAGGLER, RANDOM, LINK, EQUAL = (
    "constant straggler",
    "random stragglers",
    "slow link",
    "equal workers",
)


def regimes(scenario: Scenario) -> list[str]:
    """Return the names of what makes workers unequal or links slow here."""
    found, _ = _regimes(scenario)
    return found


def regime_sentence(scenario: Scenario) -> str:
    """Return the sentence that names the regimes, with the reason for each."""
    found, reasons = _regimes(scenario)
    text = f"Regime: {' and '.join(found)} ({'; '.join(reasons)})."
    jitter = parse_jitter(scenario.jitter)
    if scenario.jitter is not None and not jitter.varies:
        text += (
            f" All steps of all workers are slowed alike, {jitter.mean:g} times "
            f"({scenario.jitter})."
        )
    return text


def _regimes(scenario: Scenario) -> tuple[list[str], list[str]]:
    """Return the regimes and the reason for each: set on purpose or, where nothing is, measured."""
    found = []
    slow = {n: factor for n, factor in scenario.stragglers.items() if factor > 1}
    if slow:
        each = [
            f"worker {n} takes {factor:g} times as long a step"
            f"{' for a while' if n in scenario.spells else ''}"
            for n, factor in slow.items()
        ]
        found.append((STRAGGLER, f"{listed(each)}, on purpose"))
    if parse_jitter(scenario.jitter).varies:
        found.append((RANDOM, f"steps are slowed by chance, {scenario.jitter}, on purpose"))
    if scenario.link_mbps:
        worse = f", {scenario.link_spells}" if scenario.link_spells else ""
        found.append((LINK, f"{scenario.link_mbps:g} Mbit/s{worse}, on purpose"))
    found = found or _measured(scenario)
    return [name for name, _ in found], [reason for _, reason in found]


def _measured(scenario: Scenario) -> list[tuple[str, str]]:
    timed = [row for row in scenario.rows if row.step_s is not None]
    lock_step = [row for row in timed if row.kind.exact]
    nothing = "nothing is slowed on purpose"
    steps = "their steps"
    for row in (lock_step or timed)[:1]:
        assert row.step_s is not None
        slowest, fastest = max(row.step_s), min(row.step_s)
        if fastest and slowest >= SLOWER * fastest:
            worker = row.step_s.index(slowest) + 1
            return [
                (
                    STRAGGLER,
                    f"measured: worker {worker} takes {number(slowest / fastest)} times as long a "
                    f"step as the fastest, although {nothing}",
                )
            ]
        steps = f"steps take {number(1e3 * fastest)} to {number(1e3 * slowest)} ms"
    for row in lock_step[:1]:
        exchange = sum(row.mean_share(part) for part in ("push", "wait", "pull"))
        transfer = row.mean_share("push") + row.mean_share("pull")
        spent = f"in {row.label} a worker spends {percent(exchange)} of its time not computing"
        if exchange >= EXCHANGE and transfer >= TRANSFER and row.linked:
            pushing = f"{percent(transfer)} pushing and pulling"
            return [(LINK, f"measured: {spent}, {pushing}, although {nothing}")]
        if exchange >= EXCHANGE and scenario.workers > 1:
            why = "although workers are equal on the average: steps are uneven by chance"
            return [(RANDOM, f"measured: {spent}, {why}")]
    return [(EQUAL, f"{nothing}; {steps}")]
