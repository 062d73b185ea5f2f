"""Who wins, in sentences. Pure. A row wins over another by the seeds that both have alone.

Speeds and times are told apart where the interval of their difference holds no zero, and they
differ by more than ``TIMING``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import combinations

from psdp.report.baselines import SERVED
from psdp.report.comparing import comparing, in_rows
from psdp.report.formats import listed
from psdp.report.measures import Stat
from psdp.report.rows import LostRow, Row
from psdp.report.scenarios import Scenario
from psdp.report.settings import differing, said

TIMING = 0.02
"""Part of a speed or a time by which two must differ to be told apart."""


def apart(one: Stat, other: Stat) -> bool:
    """Say whether two speeds or times are told apart."""
    return one.apart(other, TIMING)


def soonest(rows: Sequence[Row]) -> list[Row]:
    """Return the rows that reach the target soonest and are not told apart, the first first."""
    timed = [(row.target_s, row) for row in rows if row.target_s is not None]
    if not timed:
        return []
    timed.sort(key=lambda pair: pair[0].mean)
    first = timed[0][0]
    return [row for stat, row in timed if not apart(stat, first)]


def winners(scenario: Scenario) -> list[str]:
    """Return who wins among rows of equal settings, where there are several of such; among those
    that are tuned, each for itself; and at last among all."""
    everyone = scenario.all_rows
    names, groups = differing(everyone), _of_equal_settings(everyone)
    sentences = []
    for rows in groups:
        if len(groups) > 1 and len({row.mode for row in rows}) > 1:
            values = [(name, in_rows(rows, name)) for name in names]
            equal = [f"{said(name)} {value}" for name, value in values if value]
            which = f" ({listed(equal)})" if equal else ""
            sentence = f"At equal settings{which}: {_winner(scenario, rows)}"
            sentences.append(comparing(sentence, rows))
    tuned = [row for row in everyone if row.tuned]
    if 1 < len(tuned) < len(everyone):
        sentences.append(comparing(f"{_each(tuned)}: {_winner(scenario, tuned)}", tuned))
    return [*sentences, comparing(_winner(scenario, everyone), everyone)]


def _each(tuned: Sequence[Row | LostRow]) -> str:
    efforts = [
        (row.search.trials, row.search.seeds, row.search.after_s) for row in tuned if row.search
    ]
    return "Each tuned" if len({*efforts}) == 1 else "Each tuned, though by unlike searches"


def _of_equal_settings(rows: Sequence[Row | LostRow]) -> list[list[Row | LostRow]]:
    groups: list[list[Row | LostRow]] = []
    for row in rows:
        group = next((group for group in groups if not differing([*group, row])), None)
        if group is None:
            groups.append([row])
        else:
            group.append(row)
    return groups


def _winner(scenario: Scenario, everyone: Sequence[Row | LostRow]) -> str:
    rows = [row for row in everyone if isinstance(row, Row) and not row.lost]
    if not rows:
        return "No winner is named: of every row some run diverged or failed."
    if any(len(row.seeds) == 1 for row in rows):
        return "No winner is named: of single seeds it is not known what is chance."
    beats, what = _sooner, "reaches the target loss sooner"
    if scenario.target is None:
        beats, what = _faster, f"trains on more {scenario.unit}s/s (no run was evaluated)"
    elif not any(row.reached for row in rows):
        return "No winner is named: no row reached the target loss."
    for row in rows:
        if all(beats(row, other) for other in everyone if other is not row):
            return f"{_titled(row)} wins here: nothing {what}."
    if any(len(_seeds(one) & _seeds(other)) < 2 for one, other in combinations(everyone, 2)):
        return "No winner is named: of some rows fewer than two seeds are shared."
    ahead = [row for row in rows if not any(beats(other, row) for other in rows)] or rows
    if len(ahead) == 1:
        ahead = [row for row in rows if row is ahead[0] or not beats(ahead[0], row)]
    names = listed([row.label for row in ahead])
    if len(ahead) == 1:
        return f"No winner is named: {names} is not known to be ahead of all others."
    return f"No winner is named: {names} cannot be told apart, and nothing {what} for sure."


def _titled(row: Row) -> str:
    """Return its label as a sentence begins with it, with what the mode is where that helps."""
    if row.kind.exact and not row.kind.served:
        return f"{row.mode.capitalize()}, which is {SERVED} without a server,"
    plain = row.kind.exact and row.plain
    return f"{row.label[:1].upper()}{row.label[1:]}" if plain else row.label


def _seeds(row: Row | LostRow) -> set[int]:
    """Return all seeds that it was run with."""
    return {*row.lost, *(row.seeds if isinstance(row, Row) else ())}


def _sooner(one: Row, other: Row | LostRow) -> bool:
    """Say whether a row reached the target with more of the seeds that both have, or with as many,
    and told apart sooner."""
    shared = _seeds(one) & _seeds(other)
    own, others = (_times(row) for row in (one, other))
    reached, reached_by_other = len(own.keys() & shared), len(others.keys() & shared)
    if len(shared) < 2 or reached != reached_by_other:
        return len(shared) > 1 and reached > reached_by_other
    return isinstance(other, Row) and _less(one.target_s, other.target_s)


def _times(row: Row | LostRow) -> Mapping[int, float]:
    """Return when it reached the target, by seed."""
    return row.target_s.by_seed if isinstance(row, Row) and row.target_s is not None else {}


def _faster(one: Row, other: Row | LostRow) -> bool:
    return isinstance(other, LostRow) or _less(other.tokens_per_s, one.tokens_per_s)


def _less(one: Stat | None, other: Stat | None) -> bool:
    """Say whether a mean is less than another, told apart by the seeds that both have."""
    if one is None or other is None:
        return False
    found = one.minus(other)
    return bool(found.by_seed) and found.mean < 0 and apart(one, other)
