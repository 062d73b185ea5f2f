"""Who wins, in sentences. Pure.

Speeds and times are told apart where the interval of their difference holds no zero, and they
differ by more than ``TIMING``.
"""

from __future__ import annotations

from collections.abc import Sequence

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
        sentences.append(comparing(f"Each tuned: {_winner(scenario, tuned)}", tuned))
    return [*sentences, comparing(_winner(scenario, everyone), everyone)]


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
    best = soonest([row for row in rows if row.all_reached])
    what = "reaches the target loss sooner"
    if scenario.target is None:
        rate = max(rows, key=lambda row: row.tokens_per_s.mean).tokens_per_s
        best = [row for row in rows if not apart(row.tokens_per_s, rate)]
        what = f"trains on more {scenario.unit}s/s (no run was evaluated)"
    elif not best:
        return "No winner is named: no row reached the target loss in all its runs."
    exact = [row for row in best if row.kind.exact]
    plain = [row for row in exact if row.kind.served and row.plain]
    unserved = [row for row in exact if not row.kind.served]
    if plain:
        name = plain[0].label
        wins = f"{name[:1].upper()}{name[1:]} wins here: nothing {what}"
        if len(best) == 1:
            return f"{wins}."
        others = listed([row.label for row in best if row is not plain[0]])
        return f"{wins} for sure; {others} cannot be told apart from it, and {name} is exact."
    if unserved:
        name = unserved[0].mode.capitalize()
        return f"{name}, which is {SERVED} without a server, wins here: nothing {what}."
    names = listed([row.label for row in best])
    return f"{names} win{'s' if len(best) == 1 else ''} here: nothing {what}."
