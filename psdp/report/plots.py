"""The plots of a report, as PNG files."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from psdp.report.curves import XOf, draw_differences, draw_losses
from psdp.report.measures import Stat
from psdp.report.points import Evaluation
from psdp.report.rows import Row
from psdp.report.runs import PARTS, Run
from psdp.report.scenarios import Scenario

ACROSS = 3
"""Scenarios side by side."""

TITLE, LETTERS = 60, 14
"""Letters of a title above its axes, and of a key to colours in an inch."""

FEW = 50
"""Numbers of a histogram up to which each has a dot, on an even scale."""

COLOURS = [matplotlib.colormaps["tab20"](index) for index in (*range(0, 20, 2), *range(1, 20, 2))]
PART_COLOURS = dict(
    zip((*PARTS, "other"), ("#3b7dd8", "#f0a030", "#c8c8c8", "#8a5fbf", "#eeeeee"), strict=True)
)


@dataclass(frozen=True)
class Plot:
    """A plot that was written: its file's name, and what it shows."""

    file: str
    title: str
    caption: str


@dataclass(frozen=True)
class Sketch:
    """How to draw a plot: what goes into each scenario's axes, their height in inches, and the key
    to its colours where axes have none of their own."""

    plot: Plot
    draw: Callable[[Axes, Scenario], None]
    height: float = 3.6
    key: Mapping[str, Any] | None = None


def write_plots(scenarios: Sequence[Scenario], runs: Sequence[Run], folder: Path) -> Iterator[Plot]:
    """Write all plots into a folder; yield each as it is there.

    Raises:
        OSError: one cannot be written.
    """
    pen = Pen(scenarios, runs)
    for sketch in pen.sketches():
        figure = figure_of(scenarios, sketch)
        figure.savefig(folder / sketch.plot.file, dpi=110)
        yield sketch.plot


def figure_of(scenarios: Sequence[Scenario], sketch: Sketch) -> Figure:
    """Return a plot of all scenarios, with the key below it."""
    across = min(ACROSS, len(scenarios))
    down = -(-len(scenarios) // across)
    size = (max(7.5, 5.2 * across), down * sketch.height)
    figure = Figure(figsize=size, layout="constrained")
    grid = figure.subplots(down, across, squeeze=False)
    for axes, scenario in zip(grid.flat, scenarios, strict=False):
        sketch.draw(axes, scenario)
        axes.set_title(_wrapped(scenario.title), fontsize=9)
        axes.spines[["top", "right"]].set_visible(False)
    for axes in grid.flat[len(scenarios) :]:
        axes.set_visible(False)
    if sketch.key:
        patches = [Patch(color=colour, label=name) for name, colour in sketch.key.items()]
        longest = max(len(name) for name in sketch.key)
        ncols = max(1, min(5, len(patches), int(LETTERS * size[0] / (longest + 6))))
        figure.legend(handles=patches, fontsize=8, ncols=ncols, loc="outside lower center")
    return figure


def _wrapped(title: str) -> str:
    first, *rest = title.split(", ")
    return "\n".join([first, *textwrap.wrap(", ".join(rest), TITLE)])


class Pen:
    """Draws with one colour a label, in all plots and scenarios alike."""

    def __init__(self, scenarios: Sequence[Scenario], runs: Sequence[Run]) -> None:
        self._runs = {run.name: run for run in runs}
        labels = dict.fromkeys(row.label for scenario in scenarios for row in scenario.rows)
        self._colours = {label: COLOURS[index % len(COLOURS)] for index, label in enumerate(labels)}
        units = {f"{scenario.unit}s" for scenario in scenarios}
        self._units = units.pop() if len(units) == 1 else "units"
        self._most_rows = max(len(scenario.rows) for scenario in scenarios)
        self._most_bars = max(
            sum(len(row.shares) for row in scenario.rows) for scenario in scenarios
        )

    def sketches(self) -> list[Sketch]:
        """Return all plots, in the order of the report."""
        return [
            *self._curves(),
            *self._differences(),
            self._bars(),
            *self._histograms(),
            self._times(),
        ]

    def _curves(self) -> Iterator[Sketch]:
        seeds = (
            "Thin lines are seeds; thick ones are means over what all seeds of a row share, bands "
            "reach from the least to the greatest; dashes are "
        )
        seeds += "the target loss; beside them, what is near it."
        units = self._units
        spread = f"The bytes of a run are taken to be spread evenly over its {units}."
        for name, caption, unit, x_of in (
            ("time", seeds, "seconds", _time),
            (units, seeds, units, _tokens),
            ("bytes", f"{seeds} {spread}", "MB pushed and pulled", _mb),
        ):
            yield Sketch(
                Plot(f"loss_{name}.png", f"Validation loss against {name}", caption),
                partial(self._loss, unit=unit, x_of=x_of),
                height=4.2,
                key=self._colours,
            )

    def _differences(self) -> Iterator[Sketch]:
        caption = "Diamonds are mean differences with their 95 % intervals, dots are seeds."
        for name, title, unit, choose in (
            ("loss", f"Validation loss at equal {self._units}", "nats", _loss_at_equal),
            ("time", "Time to the target loss, of rows whose runs all reached it", "s", _to_target),
        ):
            yield Sketch(
                Plot(f"{name}_differences.png", f"{title}: against the baseline", caption),
                partial(self._difference, unit=unit, choose=choose),
                height=1.3 + 0.45 * self._most_rows,
            )

    def _bars(self) -> Sketch:
        return Sketch(
            Plot(
                "throughput.png",
                "Throughput",
                "Steps/s, evaluations included; whiskers are the 95 % interval of the mean.",
            ),
            self._throughput,
            height=1.3 + 0.32 * self._most_rows,
        )

    def _histograms(self) -> Iterator[Sketch]:
        lag = "Version at which a gradient was applied minus the one that it was computed on; all "
        lag += "gradients of all runs."
        gap = "By how many clocks a worker was ahead of the slowest one whenever it was told to go "
        gap += "on."
        for title, caption, of, choose in (
            ("Version lag", lag, "gradients", _lags),
            ("Clock gap", gap, "answers", _gaps),
        ):
            unit = title.lower()
            yield Sketch(
                Plot(f"{unit.replace(' ', '_')}.png", title, caption),
                partial(self._histogram, unit=unit, of=of, choose=choose),
                height=4.2,
                key=self._colours,
            )

    def _times(self) -> Sketch:
        return Sketch(
            Plot(
                "worker_time.png",
                "Where each worker's time went",
                "A bar is a worker, in the order of ranks; mean over runs. What a step was "
                "slowed down on purpose counts as compute; other is the start and evaluations.",
            ),
            self._time,
            height=1.5 + 0.14 * self._most_bars,
            key=PART_COLOURS,
        )

    def _loss(self, axes: Axes, scenario: Scenario, unit: str, x_of: XOf) -> None:
        draw_losses(axes, scenario, self._runs, self._colours, x_of)
        axes.set_xlabel(unit)
        axes.set_ylabel(f"validation loss, nats/{scenario.unit}")

    def _difference(
        self, axes: Axes, scenario: Scenario, unit: str, choose: Callable[[Row], Stat | None]
    ) -> None:
        draw_differences(axes, scenario, choose, self._colours)
        axes.set_xlabel(f"{unit} more than the baseline")

    def _throughput(self, axes: Axes, scenario: Scenario) -> None:
        rows = scenario.rows[::-1]
        axes.barh(
            [row.label for row in rows],
            [row.steps_per_s.mean for row in rows],
            xerr=[row.steps_per_s.half or math.nan for row in rows],
            color=[self._colours[row.label] for row in rows],
            capsize=2,
        )
        axes.set_xlabel("steps/s")
        axes.tick_params(axis="y", labelsize=8)

    def _histogram(
        self,
        axes: Axes,
        scenario: Scenario,
        unit: str,
        of: str,
        choose: Callable[[Row], Mapping[int, int] | None],
    ) -> None:
        greatest = 0
        for row in scenario.rows:
            counts = choose(row)
            if not counts:
                continue
            greatest = max(greatest, *counts)
            numbers = list(range(max(counts) + 1))
            total = sum(counts.values())
            axes.plot(
                numbers,
                [100 * counts.get(number, 0) / total for number in numbers],
                marker="." if len(numbers) <= FEW else "",
                drawstyle="steps-mid",
                linewidth=1.1,
                color=self._colours[row.label],
            )
        if greatest > FEW:
            axes.set_xscale("symlog", linthresh=10)
        if axes.lines:
            axes.set_yscale("log")
        axes.set_xlabel(unit)
        axes.set_ylabel(f"% of {of}")

    def _time(self, axes: Axes, scenario: Scenario) -> None:
        y, ticks = 0.0, {}
        for row in scenario.rows:
            first = y
            for share in row.shares:
                left = 0.0
                for part, colour in PART_COLOURS.items():
                    axes.barh(y, 100 * share[part], left=left, color=colour, height=0.9)
                    left += 100 * share[part]
                y += 1
            ticks[(first + y - 1) / 2] = row.label
            y += 0.7
        axes.set_yticks(list(ticks), list(ticks.values()), fontsize=8)
        axes.invert_yaxis()
        axes.set_xlim(0, 100)
        axes.set_xlabel("% of the run's time")


def _time(run: Run, evaluation: Evaluation) -> float:
    return evaluation.time_s


def _tokens(run: Run, evaluation: Evaluation) -> float:
    return evaluation.tokens


def _mb(run: Run, evaluation: Evaluation) -> float:
    per_token = run.bytes_per_token
    return math.nan if per_token is None else evaluation.tokens * per_token / 1e6


def _loss_at_equal(row: Row) -> Stat | None:
    return row.equal_tokens_loss


def _to_target(row: Row) -> Stat | None:
    return row.target_s if row.all_reached else None


def _lags(row: Row) -> Mapping[int, int] | None:
    return row.lags


def _gaps(row: Row) -> Mapping[int, int] | None:
    return row.gaps
