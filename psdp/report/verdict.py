"""What the rows of a scenario mean, in plain words. Pure: rows in, sentences out.

Two means that differ by less than their spreads together are not told apart, and neither are speeds
within ``TIMING``.
"""

from __future__ import annotations

from collections.abc import Sequence

from psdp.modes import MODES, Pushed
from psdp.report.baselines import SERVED, UNSERVED, baseline
from psdp.report.formats import listed, loss, number, percent, seconds, size, spread
from psdp.report.measures import Stat
from psdp.report.regimes import STRAGGLER, regime_sentence, regimes
from psdp.report.rows import Row
from psdp.report.scenarios import Scenario

TIMING = 0.02
"""Part of a speed or a time by which two must differ to be told apart; of one run as well."""

EAGER = tuple(
    mode for mode in MODES.values() if mode.pushes == (Pushed.GRADIENT,) and not mode.in_rounds
)
"""Modes with an update of every gradient."""
UNBOUNDED = next(mode for mode in EAGER if not mode.has("staleness"))
"""Of these, the one that never lets a worker wait."""

FEWER = 0.8
"""Bytes of a token, over those of the baseline, from which on saving is worth a sentence."""


def verdict(scenario: Scenario) -> list[str]:
    """Return the sentences, the regime first and the winner last."""
    base = baseline(scenario.rows, scenario.rows[0])
    sentences = [regime_sentence(scenario), *_single_runs(scenario)]
    if len(scenario.rows) == 1:
        return [*sentences, f"Only {scenario.rows[0].label} was run here: nothing to compare."]
    if base is None:
        sentences.append(
            f"There is no {SERVED} run here, so whether {SERVED} would win is not known."
        )
    sentences += _throughput(scenario, base)
    sentences += _target(scenario, base)
    sentences += _equal_tokens(scenario, base)
    sentences += _bounds(scenario, base)
    sentences += _bytes(scenario, base)
    return [*sentences, *_winner(scenario)]


def _single_runs(scenario: Scenario) -> list[str]:
    if all(len(row.names) > 1 for row in scenario.rows):
        return []
    return [
        "Rows of a single run have no spread: small differences from them may be chance, and only "
        f"speeds within {percent(TIMING)} are taken for equal."
    ]


# Speed


def _throughput(scenario: Scenario, base: Row | None) -> list[str]:
    best = max(scenario.rows, key=lambda row: row.steps_per_s.mean)
    equals = [row for row in scenario.rows if not row.steps_per_s.apart(best.steps_per_s, TIMING)]
    text = f"{spread(best.steps_per_s)} steps/s"
    if len(equals) > 1:
        names = listed([row.label for row in equals])
        sentence = f"Fastest: {names}, not told apart (the most: {best.label}, {text})."
    else:
        sentence = f"Fastest: {best.label} with {text}."
    if base is not None and base in equals:
        sentence += f" So no mode makes more steps/s than {base.mode} beyond the spread."
    elif base is not None and best.steps_ratio is not None:
        times = f"{number(best.steps_ratio)} times {base.mode}'s"
        sentence += f" That is {times} {spread(base.steps_per_s)}."
    sentences = [sentence]
    for row in scenario.rows:
        if row.backup_workers and base is not None and row.tokens_ratio is not None:
            sentences.append(
                f"A step of {row.label} is {scenario.workers - row.backup_workers} gradients of "
                f"{scenario.workers}: in {scenario.unit}s/s it is {number(row.tokens_ratio)} times "
                f"{base.mode}."
            )
    return sentences


def _target(scenario: Scenario, base: Row | None) -> list[str]:
    if scenario.target is None:
        return ["No run was evaluated, so nothing is said about time to a loss."]
    goal = f"the target loss {loss(scenario.target)}"
    reached = [row for row in scenario.rows if row.all_reached]
    sentences = []
    soonest = _soonest(reached)
    if soonest:
        best = soonest[0]
        assert best.target_s is not None
        took = spread(best.target_s, seconds)
        if len(soonest) > 1:
            others = listed([row.label for row in soonest[1:]])
            sentence = f"Soonest at {goal}: {best.label} after {took}, not told apart from {others}"
        else:
            sentence = f"Soonest at {goal}: {best.label} after {took}"
        if base is not None and base not in soonest:
            sentence += f"; {_against(base, best.target_s)}"
        sentences.append(f"{sentence}.")
    missed = [
        f"{row.label} ({row.reached} of {len(row.names)} runs)"
        for row in scenario.rows
        if not row.all_reached
    ]
    if missed:
        sentences.append(f"Not reached within its budget: {goal}, by {listed(missed)}.")
    return sentences


def _against(base: Row, time: Stat) -> str:
    if base.target_s is None or not base.all_reached:
        return f"{base.mode} did not reach it in every run"
    sooner = 1 - time.mean / base.target_s.mean
    return f"that is {percent(sooner)} sooner than {base.mode} ({spread(base.target_s, seconds)})"


def _soonest(rows: Sequence[Row]) -> list[Row]:
    """Return the rows that reach the target soonest and are not told apart, the first first."""
    timed = [(row.target_s, row) for row in rows if row.target_s is not None]
    if not timed:
        return []
    timed.sort(key=lambda pair: pair[0].mean)
    first = timed[0][0]
    return [row for stat, row in timed if not stat.apart(first, TIMING)]


# Loss


def _equal_tokens(scenario: Scenario, base: Row | None) -> list[str]:
    if base is None or base.equal_tokens_loss is None:
        return []
    usual = base.equal_tokens_loss
    worse: list[str] = []
    better: list[str] = []
    eager = False
    same: list[str] = []
    for row in scenario.rows:
        own = row.equal_tokens_loss
        if row is base or own is None:
            continue
        if not own.apart(usual):
            same.append(row.label)
        else:
            (worse if own.mean > usual.mean else better).append(f"{row.label} {spread(own, loss)}")
            eager = eager or (own.mean < usual.mean and row.kind in EAGER)
    equal = f"at equal {scenario.unit}s ({scenario.equal_tokens:,})"
    at = f"{equal}, where {base.mode} has {spread(usual, loss)}"
    sentences = []
    if worse:
        sentences.append(f"Worse than {base.mode} in validation loss {at}: {listed(worse)}.")
    if better:
        sentence = f"Better than {base.mode} in validation loss {at}: {listed(better)}."
        if eager:
            names = listed([mode.name for mode in EAGER])
            sentence += (
                f" {names} make an update of every gradient, {scenario.workers} where {base.mode} "
                "makes one of their average."
            )
        sentences.append(sentence)
    if same:
        at = f"{base.mode}'s validation loss {at}"
        sentences.append(f"Within the spread of {at}: {listed(same)}.")
    return sentences


# The bound on staleness


def _bounds(scenario: Scenario, base: Row | None) -> list[str]:
    straggler = STRAGGLER in regimes(scenario)
    rows = [row for row in scenario.rows if row.kind.has("staleness") and not row.kind.chooses]
    return [_bound(row, base, straggler) for row in rows if scenario.workers > 1]


def _bound(row: Row, base: Row | None, straggler: bool) -> str:
    bound = int(row.settings["staleness"])
    if bound == 0:
        return f"{row.label} is lock-step: every worker waits for the slowest at every step."
    if row.max_gap < bound:
        return (
            f"{row.label} never came to its bound (widest clock gap {row.max_gap}): here it is the "
            f"same as {UNBOUNDED}."
        )
    often = ""
    if row.gaps:
        at_bound = row.gaps.get(bound, 0) / sum(row.gaps.values())
        often = f", at {percent(at_bound)} of the times that a worker was told to go on"
    if not straggler:
        return (
            f"{row.label} came to its bound (clock gap {bound}{often}): there the fastest worker "
            "waits for the slowest."
        )
    pace = ""
    if base is not None and row.steps_ratio is not None:
        pace = (
            f"; over the whole run it makes {number(row.steps_ratio)} times {base.mode}'s steps/s"
        )
    return (
        f"{row.label} fell back to the slowest worker once its bound was reached (clock gap "
        f"{bound}{often}){pace}. A bound helps with passing delays, not with a worker that is "
        "always slow."
    )


# Bytes


def _bytes(scenario: Scenario, base: Row | None) -> list[str]:
    if base is None or base.bytes_per_token is None:
        return []
    usual = base.bytes_per_token
    saved = []
    for row in scenario.rows:
        own = row.bytes_per_token
        if row is not base and own is not None and own.mean <= FEWER * usual.mean:
            fewer = f"{number(usual.mean / own.mean)} times fewer" if own.mean else "no bytes"
            saved.append(f"{row.label} {fewer} ({size(row.bytes.mean)} in all)")
    if not saved:
        return []
    against = f"against {base.mode} ({size(base.bytes.mean)} in all)"
    return [f"Bytes a {scenario.unit}, {against}: {listed(saved)}."]


# The winner


def _winner(scenario: Scenario) -> list[str]:
    best = _soonest([row for row in scenario.rows if row.all_reached])
    what = "reaches the target loss sooner"
    if not best:
        rate = max(scenario.rows, key=lambda row: row.tokens_per_s.mean).tokens_per_s
        best = [row for row in scenario.rows if not row.tokens_per_s.apart(rate, TIMING)]
        what = f"trains on more {scenario.unit}s/s (no row reached the target loss in all its runs)"
    exact = [row for row in best if row.kind.exact]
    plain = [row for row in exact if row.kind.served and row.plain]
    unserved = [row for row in exact if not row.kind.served]
    if plain:
        name = plain[0].mode
        wins = f"{name.capitalize()} wins here: nothing {what}"
        if len(best) == 1:
            return [f"{wins}."]
        others = listed([row.label for row in best if row is not plain[0]])
        return [
            f"{wins} beyond the spread; {others} cannot be told apart from it, and {name} is exact."
        ]
    if unserved:
        name = unserved[0].mode.capitalize()
        return [f"{name}, which is {SERVED} without a server, wins here: nothing {what}."]
    names = listed([row.label for row in best])
    return [f"{names} win{'s' if len(best) == 1 else ''} here: nothing {what}."]


def unserved_line(scenario: Scenario) -> str:
    """Return the line on the baseline without servers, which every report prints."""
    row = baseline(scenario.rows, scenario.rows[0], served=False)
    name = (UNSERVED if row is None else row.kind).name
    if row is None:
        return (
            f"{name.capitalize()} baseline: none among these runs; the same command with --mode "
            f"{name} makes one."
        )
    against = [
        f"{other.label} {number(other.allreduce_ratio)}"
        for other in scenario.rows
        if other is not row and other.allreduce_ratio is not None
    ]
    text = (
        f"{name.capitalize()} baseline: {spread(row.steps_per_s)} steps/s, validation loss "
        f"{spread(row.val_loss, loss)}"
    )
    return f"{text}; steps/s over it: {', '.join(against)}." if against else f"{text}."
