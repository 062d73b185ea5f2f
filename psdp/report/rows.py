"""A row of a report: runs that differ in their seed alone, with means and their intervals."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from psdp.modes import MODES, Mode
from psdp.records.metrics import percentile
from psdp.records.search import Search
from psdp.report.breakdown import Breakdown, breakdown_of
from psdp.report.lost import Lost
from psdp.report.measures import Stat, loss_after, loss_at, time_to_loss
from psdp.report.memory import Memory, together
from psdp.report.runs import PARTS, Run
from psdp.report.settings import following, is_plain, pace_of


@dataclass(frozen=True)
class Row:
    """Runs that differ in their seed alone. A :class:`Stat` is over them.

    Attributes:
        label: the mode and what tells it from other rows of the scenario.
        seeds: with which they were made, each once, however often it was run.
        reached: runs that reached the target loss.
        target_s: seconds until then, of those that did.
        equal_tokens_loss: validation loss at the tokens to which all runs of the scenario came.
        equal_time_loss: validation loss at the time at which the first row of the scenario was
            done.
        lags: version lags of all runs together, how many of each.
        gaps: clock gaps of all runs together; None if not all counted them.
        shares: of each worker: where its time went (``PARTS`` and ``other``), parts of 1.
        step_s: of each worker: seconds to compute a gradient; None where that is not known.
        linked: whether vectors went over a link, not in shared memory alone.
        resumed: whether a run was.
        breakdown: what the time of a gradient is made of; None where that was not measured.
        memory: what ranks had of their hosts' memory; None where that was not recorded.
        parameters: of the model; None if that is not known.
        data: the corpus in words.
        circumstances: where and by what its runs were made, by name; of several, all.
        follows: settings that only follow from its mode or from others.
        lost: the seeds of its runs that diverged or failed: of these there is no number.
        search: of which its settings came out best, if they did of one.
        virtual, costs_error: as of a run; of several runs the greatest error.
        steps_ratio, tokens_ratio: to the served baseline of this scenario; None without.
        allreduce_ratio: steps/s over those of the baseline without servers; None without.
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
    breakdown: Breakdown | None = None
    memory: Memory | None = None
    parameters: int | None = None
    data: str = ""
    circumstances: Mapping[str, str] = field(default_factory=dict)
    follows: tuple[str, ...] = ()
    lost: tuple[int, ...] = ()
    search: Search | None = None
    equal_time_loss: Stat | None = None
    virtual: bool = False
    costs_error: float | None = None
    steps_ratio: float | None = None
    tokens_ratio: float | None = None
    allreduce_ratio: float | None = None

    @property
    def kind(self) -> Mode:
        """What its mode is."""
        return MODES[self.mode]

    @property
    def backup_workers(self) -> int:
        return int(self.settings["backup_workers"])

    @property
    def plain(self) -> bool:
        """Whether nothing changes what its mode means."""
        return is_plain(self.settings)

    @property
    def tuned(self) -> bool:
        """Whether its settings came out best of a search."""
        return self.search is not None

    @property
    def runs(self) -> int:
        """How many runs it has, lost ones included."""
        return len(self.names) + len(self.lost)

    @property
    def all_reached(self) -> bool:
        """Whether every run reached the target loss."""
        return self.reached == self.runs

    def mean_share(self, part: str) -> float:
        """Return the mean over the workers of a part of their time."""
        return sum(share[part] for share in self.shares) / len(self.shares)


@dataclass(frozen=True)
class LostRow:
    """What would be a row, but that all its runs diverged or failed; attributes as of a row."""

    label: str
    settings: Mapping[str, Any]
    follows: tuple[str, ...]
    circumstances: Mapping[str, str]
    lost: tuple[int, ...]
    search: Search | None = None

    @property
    def mode(self) -> str:
        return str(self.settings["mode"])

    @property
    def tuned(self) -> bool:
        return self.search is not None

    @property
    def runs(self) -> int:
        return len(self.lost)


@dataclass(frozen=True)
class Marks:
    """Where the rows of a scenario are compared; None where they cannot be.

    Attributes:
        target: the target loss.
        tokens: to which all runs came with an evaluation.
        time_s: at which the first row was done.
    """

    target: float | None = None
    tokens: int | None = None
    time_s: float | None = None


def row_of(runs: Sequence[Run], lost: Sequence[Lost], at: Marks) -> Row:
    """Return the row of some runs, without a label and ratios.

    Args:
        lost: runs that would be among them.
    """
    target, tokens = at.target, at.tokens
    reached_s = [None if target is None else time_to_loss(run.evaluations, target) for run in runs]
    losses = [None if tokens is None else loss_at(run.evaluations, tokens) for run in runs]
    gaps = [run.gaps for run in runs if run.gaps is not None]
    stat, known = partial(_stat, runs), partial(_known, runs)
    costs_error = _costs_error(runs)

    def timed(found: Stat) -> Stat:
        return found.with_error((costs_error or 0.0) * found.mean, pace_of(runs[0].settings))

    target_s = stat(reached_s)
    return Row(
        label="",
        mode=runs[0].mode,
        settings=runs[0].settings,
        names=tuple(run.name for run in runs),
        seeds=tuple(sorted({run.seed for run in runs})),
        steps_per_s=timed(known(run.steps_per_s for run in runs)),
        tokens_per_s=timed(known(run.tokens_per_s for run in runs)),
        val_loss=stat(run.val_loss for run in runs),
        best_val_loss=stat(run.best_val_loss for run in runs),
        equal_tokens_loss=stat(losses),
        equal_time_loss=_loss_after(runs, at.time_s, costs_error or 0.0),
        reached=sum(time_s is not None for time_s in reached_s),
        target_s=None if target_s is None else timed(target_s),
        lags=_together(run.lags for run in runs),
        gaps=_together(gaps) if len(gaps) == len(runs) else None,
        max_gap=max(run.max_gap for run in runs),
        bytes=known(run.bytes for run in runs),
        bytes_per_step=stat(run.bytes_per_step for run in runs),
        bytes_per_token=stat(run.bytes_per_token for run in runs),
        dropped=sum(run.dropped for run in runs),
        shares=_shares(runs),
        step_s=_step_s(runs),
        linked=any(run.linked for run in runs),
        resumed=any(run.resumed for run in runs),
        breakdown=breakdown_of(runs),
        memory=together([run.memory for run in runs]),
        parameters=runs[0].parameters,
        data=runs[0].data,
        circumstances=_of_all(runs),
        follows=following(runs[0].settings),
        lost=tuple(run.seed for run in lost),
        search=_search_of([*runs, *lost]),
        virtual=any(run.virtual for run in runs),
        costs_error=costs_error,
    )


def _stat(runs: Sequence[Run], values: Iterable[float | None]) -> Stat | None:
    return Stat.of(zip((run.seed for run in runs), values, strict=True))


def _known(runs: Sequence[Run], values: Iterable[float]) -> Stat:
    found = _stat(runs, values)
    assert found is not None, "a row has runs"
    return found


def _loss_after(runs: Sequence[Run], time_s: float | None, error: float) -> Stat | None:
    """Return the loss after so many seconds, which are off by that part of them."""
    if time_s is None:
        return None
    found, sooner, later = (
        _stat(runs, (loss_after(run.evaluations, time_s * (1 + off)) for run in runs))
        for off in (0.0, -error, error)
    )
    if found is None:
        return None
    others = [each.mean for each in (sooner, later) if each is not None]
    worst = max(abs(other - found.mean) for other in others)
    return found.with_error(worst, pace_of(runs[0].settings))


def _costs_error(runs: Sequence[Run]) -> float | None:
    """Return by which part the costs of virtual runs are off at most; None where that is not known
    of all."""
    errors = [run.costs_error for run in runs if run.costs_error is not None]
    return max(errors) if len(errors) == len(runs) else None


def lost_row(lost: Sequence[Lost]) -> LostRow:
    """Return the row of runs all of which are lost, without a label."""
    return LostRow(
        label="",
        settings=lost[0].settings,
        follows=following(lost[0].settings),
        circumstances=_of_all(lost),
        lost=tuple(run.seed for run in lost),
        search=_search_of(lost),
    )


def _search_of(runs: Sequence[Run | Lost]) -> Search | None:
    return next((run.search for run in runs if run.search is not None), None)


def _of_all(runs: Sequence[Run | Lost]) -> dict[str, str]:
    return {
        name: " and ".join(dict.fromkeys(run.circumstances[name] for run in runs))
        for name in runs[0].circumstances
    }


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


def lag_percentiles(row: Row) -> tuple[int, int, int]:
    """Return the 50th and 95th percentile of a row's version lags, and the greatest."""
    half, most = percentile(row.lags, 0.5), percentile(row.lags, 0.95)
    return half or 0, most or 0, max(row.lags, default=0)
