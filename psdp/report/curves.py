"""Curves of losses over seeds, what is near the target beside them, and differences by seed."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
from matplotlib.axes import Axes

from psdp.report.baselines import baseline
from psdp.report.measures import Stat
from psdp.report.points import Evaluation
from psdp.report.rows import Row
from psdp.report.runs import Run
from psdp.report.scenarios import Scenario

Colours = Mapping[str, Any]
"""Of each label."""

XOf = Callable[[Run, Evaluation], float]
"""Where an evaluation stands on the horizontal axis."""

ROOM, INSET = 0.9, (0.56, 0.12, 0.43, 0.83)
"""The axes are made so much wider than the curves, and where in them, in their parts, the
neighbourhood of the target is shown, so that it hides no curve."""

BELOW, ABOVE = 0.98, 1.04
"""The losses that are shown there, over the target."""


class Curve:
    """The validation losses of a run, without that of the initial weights, which would flatten all
    others.

    Attributes:
        x, losses: where, and what they were, in order.
    """

    def __init__(self, run: Run, x_of: XOf) -> None:
        seen = [evaluation for evaluation in run.evaluations if evaluation.tokens]
        self.x = [x_of(run, evaluation) for evaluation in seen]
        self.losses = [evaluation.loss for evaluation in seen]

    def crosses(self, target: float) -> float | None:
        """Return where the loss first comes down to the target; None if it does not."""
        for (x, loss), (next_x, next_loss) in pairwise(zip(self.x, self.losses, strict=True)):
            if next_loss <= target < loss:
                return x + (loss - target) / (loss - next_loss) * (next_x - x)
        return None


def draw_losses(
    axes: Axes, scenario: Scenario, runs: Mapping[str, Run], colours: Colours, x_of: XOf
) -> None:
    """Draw each seed, and of what all seeds of a row share their mean and a band from the least to
    the greatest; and beside them, where rows come down to the target, the same again."""
    drawn = [
        (colours[row.label], [Curve(runs[name], x_of) for name in row.names])
        for row in scenario.rows
    ]
    _draw(axes, drawn, scenario.target)
    target = scenario.target
    if target is None:
        return
    crossings = [curve.crosses(target) for _, curves in drawn for curve in curves]
    known = [x for x in crossings if x is not None and math.isfinite(x)]
    if known:
        (low, high), (least, most) = axes.get_xlim(), axes.get_ylim()
        axes.set_xlim(low, high + ROOM * (high - low))
        inset = axes.inset_axes(INSET)
        _draw(inset, drawn, target)
        # What lies outside of the axes would be marked across others.
        margin = 0.25 * (max(known) - min(known)) + 0.04 * (high - low)
        inset.set_xlim(max(low, min(known) - margin), min(high, max(known) + margin))
        inset.set_ylim(max(least, BELOW * target), min(most, ABOVE * target))
        inset.tick_params(labelsize=6)
        axes.indicate_inset_zoom(inset, edgecolor="black")


def _draw(axes: Axes, drawn: Sequence[tuple[Any, Sequence[Curve]]], target: float | None) -> None:
    for colour, curves in drawn:
        for curve in curves:
            axes.plot(curve.x, curve.losses, linewidth=0.5, color=colour, alpha=0.6)
        x, losses = over_seeds([curve for curve in curves if curve.x])
        axes.plot(x, losses.mean(axis=0), marker=".", linewidth=1.1, color=colour)
        axes.fill_between(
            x, losses.min(axis=0), losses.max(axis=0), color=colour, alpha=0.2, linewidth=0
        )
    if target is not None:
        axes.axhline(target, color="black", linestyle="--", linewidth=0.8)


def over_seeds(curves: Sequence[Curve]) -> tuple[Any, Any]:
    """Return where any of some curves has a loss and all reach, (N,), and their losses there,
    (curves, N), interpolated between evaluations."""
    if not curves:
        return np.empty(0), np.empty((1, 0))
    first, last = max(curve.x[0] for curve in curves), min(curve.x[-1] for curve in curves)
    x = np.unique([x for curve in curves for x in curve.x if first <= x <= last])
    return x, np.array([np.interp(x, curve.x, curve.losses) for curve in curves])


def draw_differences(
    axes: Axes, scenario: Scenario, choose: Callable[[Row], Stat | None], colours: Colours
) -> None:
    """Draw by how much each row differs from its baseline, a dot a seed, with the interval."""
    ticks: list[str] = []
    for row in scenario.rows:
        base = baseline(scenario.rows, row)
        own, other = choose(row), None if base is None else choose(base)
        if base is None or base is row or own is None or other is None:
            continue
        found, y, colour = own.minus(other), len(ticks), colours[row.label]
        half = found.half if math.isfinite(found.half) else math.nan
        axes.errorbar(found.mean, y, xerr=half, fmt="D", capsize=3, color=colour)
        seeds = list(found.by_seed.values())
        axes.plot(seeds, [y + 0.2] * len(seeds), ".", color=colour, alpha=0.7)
        ticks.append(f"{row.label}\n- {base.label}")
    if not ticks:
        axes.text(0.5, 0.5, "nothing to compare", ha="center", transform=axes.transAxes)
        axes.set_xticks([])
        axes.set_yticks([])
        return
    axes.axvline(0, color="black", linestyle="--", linewidth=0.8)
    axes.set_yticks(range(len(ticks)), ticks, fontsize=7)
    axes.set_ylim(len(ticks) - 0.5, -0.5)
