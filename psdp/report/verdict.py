"""What the rows of a scenario mean, in plain words. Pure: rows in, sentences out.

Two means that differ by less than their spreads together are not told apart, and neither are speeds
within ``TIMING``.
"""

from __future__ import annotations

from collections.abc import Sequence

from psdp.config.handicap import parse_jitter
from psdp.report.measures import Stat
from psdp.report.tables import Row, Scenario, reference
from psdp.report.words import listed, loss, number, percent, seconds, size, spread

TIMING = 0.02
"""Part of a speed or a time by which two must differ to be told apart; of one run as well."""

SLOWER = 1.5
"""A worker whose steps take so many times as long as the fastest's is a straggler."""

EXCHANGE, TRANSFER = 0.3, 0.1
"""Parts of a synchronous worker's time: where it does not compute for so much of it, workers wait
for one another; if so much is pushing and pulling over a link, for that."""

FEWER = 0.8
"""Bytes of a token, over those of sync, from which on saving is worth a sentence."""

STRAGGLER, RANDOM, LINK, EQUAL = (
    "constant straggler",
    "random stragglers",
    "slow link",
    "equal workers",
)


def verdict(scenario: Scenario) -> list[str]:
    """Return the sentences, the regime first and the winner last."""
    sync = _sync(scenario)
    sentences = [_regime_sentence(scenario), *_single_runs(scenario)]
    if len(scenario.rows) == 1:
        return [*sentences, f"Only {scenario.rows[0].label} was run here: nothing to compare."]
    if sync is None:
        sentences.append("There is no sync run here, so whether sync would win is not known.")
    sentences += _throughput(scenario, sync)
    sentences += _target(scenario, sync)
    sentences += _equal_tokens(scenario, sync)
    sentences += _bounds(scenario, sync)
    sentences += _bytes(scenario, sync)
    return [*sentences, *_winner(scenario)]


def regimes(scenario: Scenario) -> list[str]:
    """Return the names of what makes workers unequal or links slow here."""
    found, _ = _regimes(scenario)
    return found


def _sync(scenario: Scenario) -> Row | None:
    return reference(scenario.rows, "sync", scenario.rows[0])


# The regime


def _regime_sentence(scenario: Scenario) -> str:
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
        each = [f"worker {n} takes {factor:g} times as long a step" for n, factor in slow.items()]
        found.append((STRAGGLER, f"{listed(each)}, on purpose"))
    if parse_jitter(scenario.jitter).varies:
        found.append((RANDOM, f"steps are slowed by chance, {scenario.jitter}, on purpose"))
    if scenario.link_mbps:
        found.append((LINK, f"{scenario.link_mbps:g} Mbit/s, on purpose"))
    found = found or _measured(scenario)
    return [name for name, _ in found], [reason for _, reason in found]


def _measured(scenario: Scenario) -> list[tuple[str, str]]:
    timed = [row for row in scenario.rows if row.step_s is not None]
    lock_step = [row for row in timed if row.mode in ("sync", "allreduce")]
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


def _single_runs(scenario: Scenario) -> list[str]:
    if all(len(row.names) > 1 for row in scenario.rows):
        return []
    return [
        "Rows of a single run have no spread: small differences from them may be chance, and only "
        f"speeds within {percent(TIMING)} are taken for equal."
    ]


# Speed


def _throughput(scenario: Scenario, sync: Row | None) -> list[str]:
    best = max(scenario.rows, key=lambda row: row.steps_per_s.mean)
    equals = [row for row in scenario.rows if not row.steps_per_s.apart(best.steps_per_s, TIMING)]
    text = f"{spread(best.steps_per_s)} steps/s"
    if len(equals) > 1:
        names = listed([row.label for row in equals])
        sentence = f"Fastest: {names}, not told apart (the most: {best.label}, {text})."
    else:
        sentence = f"Fastest: {best.label} with {text}."
    if sync in equals:
        sentence += " So no mode makes more steps/s than sync beyond the spread."
    elif sync is not None and best.steps_ratio is not None:
        sentence += f" That is {number(best.steps_ratio)} times sync's {spread(sync.steps_per_s)}."
    sentences = [sentence]
    for row in scenario.rows:
        if row.backup_workers and row.tokens_ratio is not None:
            sentences.append(
                f"A step of {row.label} is {scenario.workers - row.backup_workers} gradients of "
                f"{scenario.workers}: in tokens/s it is {number(row.tokens_ratio)} times sync."
            )
    return sentences


def _target(scenario: Scenario, sync: Row | None) -> list[str]:
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
        if sync is not None and sync not in soonest:
            sentence += f"; {_against_sync(best.target_s, sync)}"
        sentences.append(f"{sentence}.")
    missed = [
        f"{row.label} ({row.reached} of {len(row.names)} runs)"
        for row in scenario.rows
        if not row.all_reached
    ]
    if missed:
        sentences.append(f"Not reached within its budget: {goal}, by {listed(missed)}.")
    return sentences


def _against_sync(time: Stat, sync: Row) -> str:
    if sync.target_s is None or not sync.all_reached:
        return "sync did not reach it in every run"
    sooner = 1 - time.mean / sync.target_s.mean
    return f"that is {percent(sooner)} sooner than sync ({spread(sync.target_s, seconds)})"


def _soonest(rows: Sequence[Row]) -> list[Row]:
    """Return the rows that reach the target soonest and are not told apart, the first first."""
    timed = [(row.target_s, row) for row in rows if row.target_s is not None]
    if not timed:
        return []
    timed.sort(key=lambda pair: pair[0].mean)
    first = timed[0][0]
    return [row for stat, row in timed if not stat.apart(first, TIMING)]


# Loss


def _equal_tokens(scenario: Scenario, sync: Row | None) -> list[str]:
    if sync is None or sync.equal_tokens_loss is None:
        return []
    base = sync.equal_tokens_loss
    worse: list[str] = []
    better: list[str] = []
    eager = False
    same: list[str] = []
    for row in scenario.rows:
        own = row.equal_tokens_loss
        if row is sync or own is None:
            continue
        if not own.apart(base):
            same.append(row.label)
        else:
            (worse if own.mean > base.mean else better).append(f"{row.label} {spread(own, loss)}")
            eager = eager or (own.mean < base.mean and row.mode in ("async", "ssp"))
    at = f"at equal tokens ({scenario.equal_tokens:,}), where sync has {spread(base, loss)}"
    sentences = []
    if worse:
        sentences.append(f"Worse than sync in validation loss {at}: {listed(worse)}.")
    if better:
        sentence = f"Better than sync in validation loss {at}: {listed(better)}."
        if eager:
            sentence += (
                f" async and ssp make an update of every gradient, {scenario.workers} where sync "
                "makes one of their average."
            )
        sentences.append(sentence)
    if same:
        sentences.append(f"Within the spread of sync's validation loss {at}: {listed(same)}.")
    return sentences


# The bound of ssp


def _bounds(scenario: Scenario, sync: Row | None) -> list[str]:
    straggler = STRAGGLER in regimes(scenario)
    rows = [row for row in scenario.rows if row.mode == "ssp"]
    return [_bound(row, sync, straggler) for row in rows if scenario.workers > 1]


def _bound(row: Row, sync: Row | None, straggler: bool) -> str:
    bound = int(row.settings["staleness"])
    if bound == 0:
        return f"{row.label} is lock-step: every worker waits for the slowest at every step."
    if row.max_gap < bound:
        return (
            f"{row.label} never came to its bound (widest clock gap {row.max_gap}): here it is the "
            "same as async."
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
    if sync is not None and row.steps_ratio is not None:
        pace = f"; over the whole run it makes {number(row.steps_ratio)} times sync's steps/s"
    return (
        f"{row.label} fell back to the slowest worker once its bound was reached (clock gap "
        f"{bound}{often}){pace}. A bound helps with passing delays, not with a worker that is "
        "always slow."
    )


# Bytes


def _bytes(scenario: Scenario, sync: Row | None) -> list[str]:
    if sync is None or sync.bytes_per_token is None:
        return []
    base = sync.bytes_per_token
    saved = []
    for row in scenario.rows:
        own = row.bytes_per_token
        if row is not sync and own is not None and own.mean <= FEWER * base.mean:
            fewer = f"{number(base.mean / own.mean)} times fewer" if own.mean else "no bytes"
            saved.append(f"{row.label} {fewer} ({size(row.bytes.mean)} in all)")
    if not saved:
        return []
    return [f"Bytes a token, against sync ({size(sync.bytes.mean)} in all): {listed(saved)}."]


# The winner


def _winner(scenario: Scenario) -> list[str]:
    best = _soonest([row for row in scenario.rows if row.all_reached])
    what = "reaches the target loss sooner"
    if not best:
        rate = max(scenario.rows, key=lambda row: row.tokens_per_s.mean).tokens_per_s
        best = [row for row in scenario.rows if not row.tokens_per_s.apart(rate, TIMING)]
        what = "trains on more tokens/s (no row reached the target loss in all its runs)"
    plain = [row for row in best if row.mode == "sync" and row.plain]
    exact = [row for row in best if row.mode == "allreduce"]
    if plain and len(best) == 1:
        return [f"Sync wins here: nothing {what}."]
    if plain:
        others = listed([row.label for row in best if row is not plain[0]])
        return [
            f"Sync wins here: nothing {what} beyond the spread; {others} cannot be told apart from "
            "it, and sync is exact."
        ]
    if exact:
        return [f"Allreduce, which is sync without a server, wins here: nothing {what}."]
    names = listed([row.label for row in best])
    return [f"{names} win{'s' if len(best) == 1 else ''} here: nothing {what}."]


def allreduce_line(scenario: Scenario) -> str:
    """Return the line on the Allreduce baseline, which every report prints."""
    row = reference(scenario.rows, "allreduce", scenario.rows[0])
    if row is None:
        return (
            "Allreduce baseline: none among these runs; the same command with --mode allreduce "
            "makes one."
        )
    against = [
        f"{other.label} {number(other.allreduce_ratio)}"
        for other in scenario.rows
        if other is not row and other.allreduce_ratio is not None
    ]
    text = (
        f"Allreduce baseline: {spread(row.steps_per_s)} steps/s, validation loss "
        f"{spread(row.val_loss, loss)}"
    )
    return f"{text}; steps/s over it: {', '.join(against)}." if against else f"{text}."
