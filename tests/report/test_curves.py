"""What plots show: every row, and all of their keys."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from made_rows import row, scenario
from made_runs import write_run
from matplotlib.figure import Figure

from psdp.report.curves import INSET, draw_differences, draw_losses
from psdp.report.plots import Pen, Plot, Sketch, figure_of
from psdp.report.runs import read_runs
from psdp.report.scenarios import compare


def test_a_row_whose_seeds_share_no_time_is_drawn_all_the_same(tmp_path: Path) -> None:
    ends = [((1.0, 160, 3.0), (2.0, 320, 2.5)), ((5.0, 160, 3.0), (9.0, 320, 2.5))]
    runs, _ = read_runs(
        [
            write_run(tmp_path / str(seed), seed=seed, evaluations=own)
            for seed, own in enumerate(ends)
        ]
    )
    axes = Figure().subplots()
    by_name = {run.name: run for run in runs}
    (shown,) = compare(runs)
    draw_losses(axes, shown, by_name, {"sync": "red"}, lambda _, one: one.time_s)
    drawn = [list(line.get_xdata()) for line in axes.lines]
    assert [1.0, 2.0] in drawn
    assert [5.0, 9.0] in drawn
    low, high = axes.get_xlim()
    inset = axes.child_axes[0].get_xlim()
    assert low <= inset[0] < inset[1] <= high


def test_what_is_near_the_target_hides_no_curve(tmp_path: Path) -> None:
    late = ((1.0, 160, 4.0), (9.0, 320, 3.9), (10.0, 480, 2.0))
    runs, _ = read_runs([write_run(tmp_path / "sync", evaluations=late)])
    axes = Figure().subplots()
    (shown,) = compare(runs)
    by_name = {run.name: run for run in runs}
    draw_losses(axes, shown, by_name, {"sync": "red"}, lambda _, one: one.time_s)
    low, high = axes.get_xlim()
    assert (10.0 - low) / (high - low) < INSET[0]


def test_where_there_is_nothing_to_compare_the_panel_says_so() -> None:
    axes = Figure().subplots()
    draw_differences(axes, scenario(row("sync", 1.0)), lambda one: one.val_loss, {"sync": "red"})
    assert [text.get_text() for text in axes.texts] == ["nothing to compare"]


def test_a_key_with_long_names_is_inside_its_figure() -> None:
    names = [f"local H=50 nesterov, outer-lr 0.7, outer-momentum 0.65, lr 0.00{n}" for n in (1, 2)]
    sketch = Sketch(Plot("", "", ""), lambda *_: None, key=dict.fromkeys(names, "red"))
    figure: Any = figure_of([scenario(row("sync", 1.0))], sketch)
    figure.draw_without_rendering()
    (legend,) = figure.legends
    box, whole = legend.get_window_extent(), figure.bbox
    assert whole.x0 <= box.x0
    assert box.x1 <= whole.x1


def test_keys_of_lags_and_gaps_cover_no_curve_and_name_every_row() -> None:
    names = [f"ssp S={bound}, lr 0.001, warmup-steps 100, beta1 0.9" for bound in range(8)]
    of = scenario(*(row(name, 1.0, lags={0: 1, 2: 3}, gaps={1: 2}) for name in names))
    sketches = {sketch.plot.file: sketch for sketch in Pen([of], []).sketches()}
    for file in ("version_lag.png", "clock_gap.png"):
        figure: Any = figure_of([of], sketches[file])
        (axes,) = figure.axes
        assert len(axes.lines) == len(names)
        assert axes.get_legend() is None
        (legend,) = figure.legends
        assert [text.get_text() for text in legend.get_texts()] == names
        figure.draw_without_rendering()
        assert legend.get_window_extent().y1 <= axes.get_tightbbox().y0
