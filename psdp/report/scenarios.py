"""Scenarios: rows that may be compared, since they differ in the mode and its settings, not in the
workers or what slows them down.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from statistics import fmean
from typing import Any, TypeVar

from psdp.config.handicap import ALWAYS, in_words, parse_slow_link, parse_stragglers
from psdp.report.baselines import SERVED, with_ratios
from psdp.report.labels import labels, sort_key
from psdp.report.lost import Lost
from psdp.report.measures import Stat
from psdp.report.rows import LostRow, Marks, Row, lost_row, row_of
from psdp.report.runs import Run
from psdp.report.settings import CONDITIONS, NOT_COMPARED, SETUP, hashable, is_plain, said

TOLERANCE = 1.01
"""The target loss, unless one is named, is the mean of what the exact mode ends with times this."""

_Of = TypeVar("_Of", Run, Lost)

_Key = tuple[Any, ...]
"""Settings that are those of all runs of a row."""


@dataclass(frozen=True)
class Scenario:
    """Rows that may be compared with one another.

    Attributes:
        stragglers: factor of each worker that is slowed down on purpose, by its number from 1; the
            greatest, where that is for a while.
        spells: of those that are slow for a while, when, in words; ``link_spells``: of the links.
        differs: what tells its setup from that of other scenarios of the report.
        target: the target loss; None without evaluations.
        target_from: where the target comes from, in words.
        equal_tokens: to which all its runs came with an evaluation; None without evaluations.
        equal_time_s: at which the first of its rows was done, on the average of its runs; None
            without evaluations.
        lost: rows none of whose runs came to its end.
        unit: what all its runs count.
    """

    workers: int
    stragglers: Mapping[int, float]
    jitter: str | None
    link_mbps: float
    differs: str
    target: float | None
    target_from: str
    equal_tokens: int | None
    rows: tuple[Row, ...]
    unit: str = "token"
    equal_time_s: float | None = None
    spells: Mapping[int, str] = field(default_factory=dict)
    link_spells: str = ""
    lost: tuple[LostRow, ...] = ()

    @property
    def all_rows(self) -> list[Row | LostRow]:
        """Its rows, then those that are lost."""
        return [*self.rows, *self.lost]

    @property
    def title(self) -> str:
        parts = [f"{self.workers} worker{'s' if self.workers > 1 else ''}"]
        for n, factor in self.stragglers.items():
            parts.append(f"worker {n}: {self.spells.get(n, f'{factor:g} times slower')}")
        if self.jitter is not None:
            parts.append(f"steps slowed by {self.jitter}")
        if self.link_mbps:
            parts.append(f"links of {self.link_mbps:g} Mbit/s")
        if self.link_spells:
            parts.append(f"links {self.link_spells}")
        if self.differs:
            parts.append(self.differs)
        return ", ".join(parts)


def compare(
    runs: Sequence[Run],
    target: float | None = None,
    lost: Sequence[Lost] = (),
) -> list[Scenario]:
    """Return the scenarios of some runs, in the order in which they come.

    Args:
        lost: runs that count against their rows.
        target: loss that is waited for; by default 1 % above the mean of what the exact mode ends
            with.
    """
    groups: defaultdict[tuple[Any, ...], list[Run]] = defaultdict(list)
    for run in runs:
        groups[_scenario_key(run)].append(run)
    setups = [_setup(group[0]) for group in groups.values()]
    differing = [name for name in setups[0] if len({setup[name] for setup in setups}) > 1]
    scenarios = []
    for key, group in groups.items():
        setup = _setup(group[0])
        differs = ", ".join(said(name, setup[name]) for name in differing)
        own = [run for run in lost if _scenario_key(run) == key]
        scenarios.append(_scenario(key, differs, group, own, target))
    return scenarios


def _scenario_key(run: Run | Lost) -> tuple[Any, ...]:
    # Workers have numbers, since the rank of one depends on how many servers there are.
    stragglers = parse_stragglers(run.settings["straggler"])
    slow = tuple(
        (rank - run.servers + 1, slowings)
        for rank, slowings in sorted(stragglers.items())
        if any(each.factor > 1 for each in slowings)
    )
    link = run.settings["link_mbps"], parse_slow_link(run.settings["slow_link"])
    conditions = (run.workers, slow, run.settings["jitter"], *link)
    return (*conditions, tuple(_setup(run).items()))


def _setup(run: Run | Lost) -> dict[str, Any]:
    setup = {name: hashable(run.settings[name]) for name in run.settings if name in SETUP}
    return setup | {"corpus": run.corpus, "task": run.task}


def _scenario(
    key: tuple[Any, ...],
    differs: str,
    runs: Sequence[Run],
    lost: Sequence[Lost],
    target: float | None,
) -> Scenario:
    workers, slow, jitter, link_mbps, slow_link, _ = key
    groups = _by_row(runs)
    lost_of = _by_row(lost)
    target_from = "as asked for"
    if target is None:
        target, target_from = _usual_target(list(groups.values()))
    at = Marks(target, _equal_tokens(runs), _equal_time_s(list(groups.values())))
    rows = [row_of(group, lost_of.get(own, ()), at) for own, group in groups.items()]
    all_lost = [lost_row(them) for own, them in lost_of.items() if own not in groups]
    called = iter(labels([*rows, *all_lost]))
    rows = [replace(row, label=next(called)) for row in rows]
    rows.sort(key=lambda row: sort_key(row.settings, row.label))
    all_lost = [replace(row, label=next(called)) for row in all_lost]
    return Scenario(
        workers=workers,
        stragglers={n: max(each.factor for each in slowings) for n, slowings in slow},
        spells={n: in_words(own) for n, own in slow if any(it.span != ALWAYS for it in own)},
        link_spells=in_words(slow_link),
        jitter=jitter,
        link_mbps=link_mbps,
        unit=runs[0].unit,
        differs=differs,
        target=target,
        target_from=target_from,
        equal_tokens=at.tokens,
        equal_time_s=at.time_s,
        rows=tuple(with_ratios(row, rows) for row in rows),
        lost=tuple(sorted(all_lost, key=lambda row: sort_key(row.settings, row.label))),
    )


def _equal_tokens(runs: Sequence[Run]) -> int | None:
    return min((run.evaluations[-1].tokens for run in runs if run.evaluations), default=None)


def _equal_time_s(groups: Sequence[Sequence[Run]]) -> float | None:
    """Return the time at which the first row was done of those whose runs were all evaluated."""
    ends = [[run.evaluations[-1].time_s for run in runs if run.evaluations] for runs in groups]
    whole = [own for own, runs in zip(ends, groups, strict=True) if len(own) == len(runs)]
    return min(map(fmean, whole), default=None)


def _usual_target(groups: Sequence[Sequence[Run]]) -> tuple[float | None, str]:
    """Return the target loss of runs that come row by row, and where it is from."""
    ends: list[tuple[Run, float]] = []
    for runs in groups:
        loss = Stat.of((run.seed, run.val_loss) for run in runs)
        if loss is not None:
            ends.append((runs[0], loss.mean))
    exact = [
        (run, mean)
        for run, mean in ends
        if run.kind.exact and run.kind.served and is_plain(run.settings)
    ]
    if exact:
        name = min(exact, key=lambda end: end[0].kind.order)[0].mode
        own = [mean for run, mean in exact if run.mode == name]
        which = f" (of its {len(own)} rows the one that ends highest)" if len(own) > 1 else ""
        above = f"{100 * (TOLERANCE - 1):.0f} % above the mean of what {name} ends with{which}"
        return max(own) * TOLERANCE, above
    if ends:
        losses = [run.val_loss for runs in groups for run in runs if run.val_loss is not None]
        return max(losses), f"what the worst run ends with, as there is no {SERVED}"
    return None, "no run was evaluated"


def _by_row(runs: Sequence[_Of]) -> dict[_Key, list[_Of]]:
    groups: defaultdict[_Key, list[_Of]] = defaultdict(list)
    for run in runs:
        groups[_row_key(run)].append(run)
    return dict(groups)


def _row_key(run: Run | Lost) -> _Key:
    # The rank of a straggler is in the scenario.
    skipped = NOT_COMPARED | SETUP | CONDITIONS
    return tuple(
        (name, hashable(value)) for name, value in run.settings.items() if name not in skipped
    )
