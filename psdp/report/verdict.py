"""What the rows of a scenario mean, in plain words. Pure: rows in, sentences out.

Two means are told apart where the interval of their difference holds no zero (intervals.py). Who
wins is in winners.py. Sentences that compare rows say whether these
differ in their modes alone, or in settings as well.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import replace

from psdp.modes import MODES, Pushed
from psdp.report.baselines import SERVED, UNSERVED, baseline
from psdp.report.comparing import comparing, what_differs
from psdp.report.formats import listed, loss, number, percent, seconds, size, spread
from psdp.report.measures import Stat
from psdp.report.regimes import STRAGGLER, regime_sentence, regimes
from psdp.report.rows import LostRow, Row
from psdp.report.scenarios import Scenario
from psdp.report.settings import differing
from psdp.report.winners import apart, soonest, winners

LOSS = 0.0002
"""Part of a loss by which two must differ: what numbers do not show is none."""

EAGER = tuple(
    mode for mode in MODES.values() if mode.pushes == (Pushed.GRADIENT,) and not mode.in_rounds
)
"""Modes with an update of every gradient."""
UNBOUNDED = next(mode for mode in EAGER if not mode.has("staleness"))
"""Of these, the one that never lets a worker wait."""

STANDS = {1: "Worse than", -1: "Better than", 0: "Not told apart from"}
"""How a loss stands to that of a baseline, by the sign of the difference if it is one."""

FEWER = 0.8
"""Bytes of a token, over those of the baseline, from which on saving is worth a sentence."""


def verdict(scenario: Scenario) -> list[str]:
    """Return the sentences, the regime first and the winner last."""
    rows = scenario.all_rows
    base = baseline(scenario.rows, scenario.rows[0])
    sentences = [regime_sentence(scenario), *_single_seeds(scenario), *_lost(rows)]
    if len(rows) == 1:
        return [*sentences, f"Only {rows[0].label} was run here: nothing to compare."]
    sentences.append(what_differs(rows))
    if base is None:
        there = any(row.mode == SERVED.name for row in rows)
        why = f"Runs of {SERVED} are lost" if there else f"There is no {SERVED} run here"
        sentences.append(f"{why}, so whether {SERVED} would win is not known.")
    sound = replace(scenario, rows=tuple(row for row in scenario.rows if not row.lost))
    if len(sound.rows) > 1:
        sentences += _throughput(sound)
        sentences += _target(sound)
        sentences += _losses(sound)
        sentences += _bounds(sound)
        sentences += _bytes(sound, base)
    return [*sentences, *winners(scenario)]


def _single_seeds(scenario: Scenario) -> list[str]:
    if all(len(row.seeds) > 1 for row in scenario.rows):
        return []
    return [
        "Rows of a single seed have no interval: no difference from them is called one, however "
        "large; repeat them with other seeds."
    ]


def _lost(rows: Sequence[Row | LostRow]) -> list[str]:
    lost = [f"{row.label} ({len(row.lost)} of {row.runs} runs)" for row in rows if row.lost]
    if not lost:
        return []
    return [f"Lost, since they diverged or failed: {listed(lost)}. Such a row wins nothing."]


# Speed


def _throughput(scenario: Scenario) -> list[str]:
    rows = scenario.rows
    best = max(rows, key=lambda row: row.steps_per_s.mean)
    base = baseline(rows, best)
    equals = [row for row in rows if not apart(row.steps_per_s, best.steps_per_s)]
    text = f"{spread(best.steps_per_s)} steps/s"
    if len(equals) > 1:
        names = listed([row.label for row in equals])
        sentence = f"Fastest: {names}, not told apart (the most: {best.label}, {text})."
    else:
        sentence = f"Fastest: {best.label} with {text}."
    if base is not None and base in equals:
        sentence += f" So no row is known to make more steps/s than {base.label}."
    elif base is not None and best.steps_ratio is not None:
        times = f"{number(best.steps_ratio)} times {base.label}'s"
        sentence += f" That is {times} {spread(base.steps_per_s)}."
    sentences = [comparing(sentence, rows)]
    for row in rows:
        own = baseline(rows, row)
        if row.backup_workers and own is not None and row.tokens_ratio is not None:
            sentence = (
                f"A step of {row.label} is {scenario.workers - row.backup_workers} gradients of "
                f"{scenario.workers}: in {scenario.unit}s/s it is {number(row.tokens_ratio)} times "
                f"{own.label}."
            )
            sentences.append(comparing(sentence, [row, own]))
    return sentences


def _target(scenario: Scenario) -> list[str]:
    if scenario.target is None:
        return ["No run was evaluated, so nothing is said about time to a loss."]
    goal = f"the target loss {loss(scenario.target)}"
    reached = [row for row in scenario.rows if row.all_reached]
    sentences = []
    first = soonest(reached)
    if first:
        best = first[0]
        assert best.target_s is not None
        took = spread(best.target_s, seconds)
        sentence = f"Soonest at {goal}: {best.label} after {took}"
        if len(first) > 1:
            others = listed([row.label for row in first[1:]])
            sentence += f", not told apart from {others}"
        base = baseline(scenario.rows, best)
        spoken_of = reached
        if base is not None and base not in first:
            sentence += f"; {_against(base, best.target_s)}"
            spoken_of = [row for row in scenario.rows if row in reached or row is base]
        sentences.append(comparing(f"{sentence}.", spoken_of))
    missed = [
        f"{row.label} ({row.reached} of {row.runs} runs)"
        for row in scenario.rows
        if not row.all_reached
    ]
    if missed:
        sentences.append(f"Not reached within its budget: {goal}, by {listed(missed)}.")
    return sentences


def _against(base: Row, time: Stat) -> str:
    if base.target_s is None or not base.all_reached:
        return f"{base.label} did not reach it in every run"
    sooner = 1 - time.mean / base.target_s.mean
    return f"that is {percent(sooner)} sooner than {base.label} ({spread(base.target_s, seconds)})"


# Loss


def _losses(scenario: Scenario) -> list[str]:
    """Compare at equal tokens, and at equal time."""
    sentences = []
    if scenario.equal_tokens is not None:
        at = f"at equal {scenario.unit}s ({scenario.equal_tokens:,})"
        sentences += _beside_baselines(scenario, lambda row: row.equal_tokens_loss, at, why=True)
    if scenario.equal_time_s is not None:
        at = f"at equal time ({seconds(scenario.equal_time_s)})"
        sentences += _beside_baselines(scenario, lambda row: row.equal_time_loss, at)
    return sentences


def _beside_baselines(
    scenario: Scenario, of: Callable[[Row], Stat | None], at: str, *, why: bool = False
) -> list[str]:
    """Compare each row with its own baseline; those together that stand alike to the same one."""
    alike: defaultdict[tuple[str, int, tuple[str, ...]], list[Row]] = defaultdict(list)
    bases = {}
    for row in scenario.rows:
        base = baseline(scenario.rows, row)
        if base is None or base is row:
            continue
        own, other = of(row), of(base)
        if own is None or other is None:
            continue
        found = own.minus(other)
        stands = 0 if not own.apart(other, LOSS) else 1 if found.mean > 0 else -1
        bases[base.label] = base
        alike[base.label, -stands, tuple(differing([base, row]))].append(row)
    return [
        comparing(
            f"{STANDS[-stands]} {label} in validation loss {at}, where {label} has "
            f"{spread(of(bases[label]), loss)}: "
            f"{listed([f'{row.label} {spread(of(row), loss)}' for row in rows])}."
            f"{_why(scenario, label, rows) if why and stands > 0 else ''}",
            [bases[label], *rows],
        )
        for (label, stands, _), rows in sorted(alike.items(), key=lambda item: item[0][:2])
    ]


def _why(scenario: Scenario, base: str, rows: Sequence[Row]) -> str:
    """Return why rows may do better than a baseline, where that follows from what they are."""
    if not any(row.kind in EAGER for row in rows):
        return ""
    names = listed([mode.name for mode in EAGER])
    return (
        f" {names} make an update of every gradient, {scenario.workers} where {base} makes one of "
        "their average."
    )


# The bound on staleness


def _bounds(scenario: Scenario) -> list[str]:
    straggler = STRAGGLER in regimes(scenario)
    rows = [row for row in scenario.rows if row.kind.has("staleness") and not row.kind.chooses]
    bases = [baseline(scenario.rows, row) for row in rows]
    bounds = zip(rows, bases, strict=True)
    return [_bound(row, base, straggler) for row, base in bounds if scenario.workers > 1]


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
    fell = f"{row.label} fell back to the slowest worker once its bound was reached (clock gap "
    fell += f"{bound}{often})"
    helps = "A bound helps with passing delays, not with a worker that is always slow."
    if base is None or row.steps_ratio is None:
        return f"{fell}. {helps}"
    pace = f"over the whole run it makes {number(row.steps_ratio)} times {base.label}'s steps/s"
    return comparing(f"{fell}; {pace}. {helps}", [base, row])


# Bytes


def _bytes(scenario: Scenario, base: Row | None) -> list[str]:
    if base is None or base.bytes_per_token is None:
        return []
    usual = base.bytes_per_token
    saved, rows = [], [base]
    for row in scenario.rows:
        own = row.bytes_per_token
        if row is not base and own is not None and own.mean <= FEWER * usual.mean:
            fewer = f"{number(usual.mean / own.mean)} times fewer" if own.mean else "no bytes"
            saved.append(f"{row.label} {fewer} ({size(row.bytes.mean)} in all)")
            rows.append(row)
    if not saved:
        return []
    against = f"against {base.label} ({size(base.bytes.mean)} in all)"
    return [comparing(f"Bytes a {scenario.unit}, {against}: {listed(saved)}.", rows)]


# Without servers


def unserved_line(scenario: Scenario) -> str:
    """Return the line on the baseline without servers, which every report prints."""
    row = baseline(scenario.rows, scenario.rows[0], served=False)
    name = (UNSERVED if row is None else row.kind).name
    if row is None:
        return (
            f"{name.capitalize()} baseline: none among these runs; the same command with --mode "
            f"{name} makes one."
        )
    others = [
        other
        for other in scenario.rows
        if other is not row and baseline(scenario.rows, other, served=False) is row
    ]
    against = [
        f"{other.label} {number(other.allreduce_ratio)}"
        for other in others
        if other.allreduce_ratio is not None
    ]
    text = (
        f"{name.capitalize()} baseline: {spread(row.steps_per_s)} steps/s, validation loss "
        f"{spread(row.val_loss, loss)}"
    )
    if not against:
        return f"{text}."
    return comparing(f"{text}; steps/s over it: {', '.join(against)}.", [row, *others])
