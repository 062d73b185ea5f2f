"""From runs to what is compared: rows of runs that differ in their seed alone, in scenarios whose
rows differ in the mode and its settings, not in the workers or what slows them down.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from psdp.config import settings
from psdp.config.handicap import parse_stragglers
from psdp.records.metrics import percentile
from psdp.report.measures import Stat, loss_at, time_to_loss
from psdp.report.runs import PARTS, Run

TOLERANCE = 1.01
"""The target loss, unless one is named, is what sync ends with times this."""

_NOT_COMPARED = {"seed", "out", "resume", "record", "quiet", "keep_checkpoints"}
"""Settings in which repetitions of a run may differ."""

_CONDITIONS = {"straggler", "jitter", "link_mbps"}
_SETUP = {
    *{field.name for group, field in settings() if group in ("model", "data")},
    *("batch_size", "grad_accum", "threads", "device", "kernels", "precision", "dtype"),
}
"""Settings that make runs incomparable, beside the conditions: another task or another machine."""

_OF_MODE = {
    *("mode", "staleness", "local_steps", "merge", "backup_workers", "lag_compensation"),
    *("outer_optimizer", "outer_lr", "outer_momentum", "elastic_rate", "beta1"),
    *("overlap", "balance", "wire_dtype"),
}
"""Settings whose meaning or default is the mode's."""

_ORDER = ("sync", "allreduce", "ssp", "async", "local", "easgd", "auto")


@dataclass(frozen=True)
class Row:
    """Runs that differ in their seed alone. A :class:`Stat` is over them.

    Attributes:
        label: the mode and what tells it from other rows of the scenario.
        reached: runs that reached the target loss.
        target_s: seconds until then, of those that did.
        equal_tokens_loss: validation loss at the tokens to which all runs of the scenario came.
        lags: version lags of all runs together, how many of each.
        gaps: clock gaps of all runs together; None if not all counted them.
        shares: of each worker: where its time went (``PARTS`` and ``other``), parts of 1.
        step_s: of each worker: seconds to compute a gradient; None where that is not known.
        linked: whether vectors went over a link, not in shared memory alone.
        resumed: whether a run was.
        steps_ratio, tokens_ratio: to sync of this scenario; None without.
        allreduce_ratio: steps/s over those of allreduce; None without.
    """

    label: str
    mode: str
    settings: Mapping[str, Any]
    names: tuple[str, ...]
    seeds: tuple[int, ...]
    steps_per_s: Stat
    tokens_per_s: Stat
    val_loss: Stat | None
    best_val_loss: Stat | None
    equal_tokens_loss: Stat | None
    reached: int
    target_s: Stat | None
    lags: Mapping[int, int]
    gaps: Mapping[int, int] | None
    max_gap: int
    bytes: Stat
    bytes_per_step: Stat | None
    bytes_per_token: Stat | None
    dropped: int
    shares: tuple[Mapping[str, float], ...]
    step_s: tuple[float, ...] | None
    linked: bool = False
    resumed: bool = False
    steps_ratio: float | None = None
    tokens_ratio: float | None = None
    allreduce_ratio: float | None = None

    @property
    def backup_workers(self) -> int:
        return int(self.settings["backup_workers"])

    @property
    def plain(self) -> bool:
        """Whether nothing changes what its mode means."""
        return _is_plain(self.settings)

    @property
    def all_reached(self) -> bool:
        """Whether every run reached the target loss."""
        return self.reached == len(self.names)

    def mean_share(self, part: str) -> float:
        """Return the mean over the workers of a part of their time."""
        return sum(share[part] for share in self.shares) / len(self.shares)


@dataclass(frozen=True)
class Scenario:
    """Rows that may be compared with one another.

    Attributes:
        stragglers: factor of each worker that is slowed down on purpose, by its number from 1.
        differs: what tells its setup from that of other scenarios of the report.
        target: the target loss; None without evaluations.
        target_from: where the target comes from, in words.
        equal_tokens: to which all its runs came with an evaluation; None without evaluations.
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

    @property
    def title(self) -> str:
        parts = [f"{self.workers} worker{'s' if self.workers > 1 else ''}"]
        parts += [f"worker {n}: {factor:g} times slower" for n, factor in self.stragglers.items()]
        if self.jitter is not None:
            parts.append(f"steps slowed by {self.jitter}")
        if self.link_mbps:
            parts.append(f"links of {self.link_mbps:g} Mbit/s")
        if self.differs:
            parts.append(self.differs)
        return ", ".join(parts)


def compare(runs: Sequence[Run], target: float | None = None) -> list[Scenario]:
    """Return the scenarios of some runs, in the order in which they come.

    Args:
        target: loss that is waited for; by default what sync ends with, and 1 % more.
    """
    groups: defaultdict[tuple[Any, ...], list[Run]] = defaultdict(list)
    for run in runs:
        groups[_scenario_key(run)].append(run)
    setups = [_setup(group[0]) for group in groups.values()]
    differing = [name for name in setups[0] if len({setup[name] for setup in setups}) > 1]
    scenarios = []
    for key, group in groups.items():
        setup = _setup(group[0])
        differs = ", ".join(_said(name, setup[name]) for name in differing)
        scenarios.append(_scenario(key, differs, group, target))
    return scenarios


def _scenario_key(run: Run) -> tuple[Any, ...]:
    # Workers have numbers, since the rank of one depends on how many servers there are.
    stragglers = parse_stragglers(run.settings["straggler"])
    slow = tuple((rank - run.servers + 1, stragglers[rank]) for rank in sorted(stragglers))
    conditions = (run.workers, slow, run.settings["jitter"], run.settings["link_mbps"])
    return (*conditions, tuple(_setup(run).items()))


def _setup(run: Run) -> dict[str, Any]:
    setup = {name: _hashable(run.settings[name]) for name in run.settings if name in _SETUP}
    return setup | {"corpus": run.corpus_sha256[:12]}


def _hashable(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


def _said(name: str, value: Any) -> str:
    return f"{name.replace('_', '-')} {value}"


def _scenario(
    key: tuple[Any, ...], differs: str, runs: Sequence[Run], target: float | None
) -> Scenario:
    workers, slow, jitter, link_mbps, _ = key
    target_from = "as asked for"
    if target is None:
        target, target_from = _usual_target(runs)
    ends = [run.evaluations[-1].tokens for run in runs if run.evaluations]
    equal_tokens = min(ends, default=None)
    groups: defaultdict[tuple[Any, ...], list[Run]] = defaultdict(list)
    for run in runs:
        groups[_row_key(run)].append(run)
    rows = [_row(group, target, equal_tokens) for group in groups.values()]
    rows = sorted(_labelled(rows), key=_place)
    return Scenario(
        workers=workers,
        stragglers=dict(slow),
        jitter=jitter,
        link_mbps=link_mbps,
        differs=differs,
        target=target,
        target_from=target_from,
        equal_tokens=equal_tokens,
        rows=tuple(_with_ratios(row, rows) for row in rows),
    )


def _usual_target(runs: Sequence[Run]) -> tuple[float | None, str]:
    def ends(runs: Iterable[Run]) -> list[float]:
        return [run.val_loss for run in runs if run.val_loss is not None]

    sync = ends(run for run in runs if run.mode == "sync" and _is_plain(run.settings))
    if sync:
        return max(sync) * TOLERANCE, f"{100 * (TOLERANCE - 1):.0f} % above what sync ends with"
    if ends(runs):
        return max(ends(runs)), "what the worst run ends with, as there is no sync"
    return None, "no run was evaluated"


def _is_plain(s: Mapping[str, Any]) -> bool:
    return not s["backup_workers"] and not s["overlap"] and s["balance"] == "static"


def _row_key(run: Run) -> tuple[Any, ...]:
    # The rank of a straggler is in the scenario.
    skipped = _NOT_COMPARED | _SETUP | _CONDITIONS
    return tuple(
        (name, _hashable(value)) for name, value in run.settings.items() if name not in skipped
    )


def _row(runs: Sequence[Run], target: float | None, equal_tokens: int | None) -> Row:
    reached_s = [None if target is None else time_to_loss(run.evaluations, target) for run in runs]
    losses = [
        None if equal_tokens is None else loss_at(run.evaluations, equal_tokens) for run in runs
    ]
    gaps = [run.gaps for run in runs if run.gaps is not None]
    return Row(
        label="",
        mode=runs[0].mode,
        settings=runs[0].settings,
        names=tuple(run.name for run in runs),
        seeds=tuple(run.seed for run in runs),
        steps_per_s=_stat(run.steps_per_s for run in runs),
        tokens_per_s=_stat(run.tokens_per_s for run in runs),
        val_loss=Stat.of(run.val_loss for run in runs),
        best_val_loss=Stat.of(run.best_val_loss for run in runs),
        equal_tokens_loss=Stat.of(losses),
        reached=sum(time_s is not None for time_s in reached_s),
        target_s=Stat.of(reached_s),
        lags=_together(run.lags for run in runs),
        gaps=_together(gaps) if len(gaps) == len(runs) else None,
        max_gap=max(run.max_gap for run in runs),
        bytes=_stat(run.bytes for run in runs),
        bytes_per_step=Stat.of(run.bytes_per_step for run in runs),
        bytes_per_token=Stat.of(run.bytes_per_token for run in runs),
        dropped=sum(run.dropped for run in runs),
        shares=_shares(runs),
        step_s=_step_s(runs),
        linked=any(not run.transport.endswith("shared") for run in runs),
        resumed=any(run.resumed for run in runs),
    )


def _stat(values: Iterable[float]) -> Stat:
    stat = Stat.of(values)
    assert stat is not None, "a row has runs"
    return stat


def _together(histograms: Iterable[Mapping[int, int]]) -> dict[int, int]:
    total: Counter[int] = Counter()
    for histogram in histograms:
        total.update(histogram)
    return {number: total[number] for number in sorted(total)}


def worker_shares(run: Run) -> list[dict[str, float]]:
    """Return where each worker's time went, as parts of the run's wall time; ``other`` is its
    start, its part of evaluations and what it waited for after its last push."""
    found = []
    for parts_s in run.parts_s.values():
        wall_s = max(run.wall_s, sum(parts_s.values()), 1e-9)
        shares = {part: parts_s[part] / wall_s for part in PARTS}
        found.append(shares | {"other": max(0.0, 1 - sum(shares.values()))})
    return found


def _shares(runs: Sequence[Run]) -> tuple[dict[str, float], ...]:
    """Return the mean over runs of each worker's shares."""
    of_runs = [worker_shares(run) for run in runs]
    # A worker that was lost before its first push is in no summary.
    whole = [shares for shares in of_runs if len(shares) == max(map(len, of_runs))]
    return tuple(
        {part: sum(share[part] for share in shares) / len(shares) for part in shares[0]}
        for shares in zip(*whole, strict=True)
    )


def _step_s(runs: Sequence[Run]) -> tuple[float, ...] | None:
    """Return the mean over runs of each worker's seconds to compute a gradient."""
    found = []
    for run in runs:
        # Dropped gradients are computed but not in the clocks; clocks are of all starts of a run.
        if run.resumed or run.dropped or not run.clocks or run.clocks.keys() != run.parts_s.keys():
            return None
        if not all(run.clocks.values()):
            return None
        found.append([run.parts_s[rank]["compute"] / run.clocks[rank] for rank in run.parts_s])
    if len({len(each) for each in found}) > 1:
        return None
    return tuple(sum(each) / len(each) for each in zip(*found, strict=True))


def _labelled(rows: Sequence[Row]) -> list[Row]:
    """Return the rows with labels of their own: the mode, and the settings that tell them apart."""
    shared = [name for name in rows[0].settings if name not in _NOT_COMPARED | _OF_MODE | _SETUP]
    shared = [name for name in shared if name not in _CONDITIONS and _vary(name, rows)]
    same: defaultdict[str, list[Row]] = defaultdict(list)
    for row in rows:
        same[_base_label(row)].append(row)
    labelled = []
    for base, alike in same.items():
        own = [name for name in sorted(_OF_MODE) if _vary(name, alike)]
        for row in alike:
            said = [_said(name, row.settings.get(name)) for name in [*own, *shared]]
            labelled.append(replace(row, label=", ".join([base, *said])))
    return labelled


def _vary(name: str, rows: Sequence[Row]) -> bool:
    return len({_hashable(row.settings.get(name)) for row in rows}) > 1


def _base_label(row: Row) -> str:
    s = row.settings
    match row.mode:
        case "sync" if row.backup_workers:
            label = f"sync, {s['backup_workers']} backup"
        case "ssp":
            label = f"ssp S={s['staleness']}"
        case "local":
            merge = ", merge async" if s["merge"] == "async" else ""
            label = f"local H={s['local_steps']} {s['outer_optimizer']}{merge}"
        case "easgd":
            label = f"easgd H={s['local_steps']}"
        case mode:
            label = mode
    extras = [label]
    if s["lag_compensation"] != "none":
        extras.append(s["lag_compensation"])
    if s["overlap"]:
        extras.append("overlap")
    if s["balance"] != "static":
        extras.append(s["balance"])
    return ", ".join(extras)


def _place(row: Row) -> tuple[Any, ...]:
    s = row.settings
    order = _ORDER.index(row.mode) if row.mode in _ORDER else len(_ORDER)
    numbers = (s["backup_workers"], s["staleness"] or 0, s["local_steps"] or 0)
    return (order, *numbers, s["merge"] == "async", row.label)


def _with_ratios(row: Row, rows: Sequence[Row]) -> Row:
    sync, allreduce = (reference(rows, mode, row) for mode in ("sync", "allreduce"))
    if sync is not None:
        row = replace(
            row,
            steps_ratio=_ratio(row.steps_per_s, sync.steps_per_s),
            tokens_ratio=_ratio(row.tokens_per_s, sync.tokens_per_s),
        )
    if allreduce is not None:
        row = replace(row, allreduce_ratio=_ratio(row.steps_per_s, allreduce.steps_per_s))
    return row


def _ratio(own: Stat, other: Stat) -> float | None:
    return own.mean / other.mean if other.mean else None


def reference(rows: Sequence[Row], mode: str, row: Row) -> Row | None:
    """Return the row of a mode, a plain one if there is, whose other settings are most like those
    of ``row``; None if there is none without backup workers."""

    def distance(other: Row) -> tuple[bool, int]:
        names = row.settings.keys() - _OF_MODE - _NOT_COMPARED
        differing = sum(row.settings[name] != other.settings.get(name) for name in names)
        return not other.plain, differing

    found = [other for other in rows if other.mode == mode and not other.backup_workers]
    return min(found, key=distance, default=None)


def lag_percentiles(row: Row) -> tuple[int, int, int]:
    """Return the 50th and 95th percentile of a row's version lags, and the greatest."""
    half, most = percentile(row.lags, 0.5), percentile(row.lags, 0.95)
    return half or 0, most or 0, max(row.lags, default=0)
