"""The benchmark of forecasts: what it takes for foretold, and what for right."""

from __future__ import annotations

import math
from pathlib import Path

import forecast
import pytest
from cells import find_spec, read_spec
from made_runs import change_json, write_run

from psdp.report.measures import Stat
from psdp.report.runs import Run, read_runs
from psdp.report.scenarios import compare


def stat(*values: float) -> Stat:
    found = Stat.of(enumerate(values))
    assert found is not None
    return found


def runs(folder: Path, end_s: dict[str, float], seeds: int, off: float | None = None) -> list[Run]:
    """Return runs whose losses fall evenly from 4 to 2 until these seconds, or a few more; virtual
    ones where costs are ``off``."""
    for mode, seconds in end_s.items():
        for seed in range(seeds):
            ends = seconds * (1 + 0.01 * seed)
            losses = [(0.0, 0, 4.0), (ends, 320, 2.0)]
            run = write_run(folder / f"{mode}-{seed}", mode=mode, seed=seed, evaluations=losses)
            if off is not None:
                virtual = {"hosts": ["virtual"], "costs": {"calibrate_error": off}}
                change_json(run / "config.json", **virtual)
    found, left_out = read_runs(folder.iterdir())
    assert not left_out
    return found


def foretold(folder: Path, measured: dict[str, float], off: float = 0.01) -> forecast.Forecast:
    """Return a forecast of which async wins after 5 s and a bit."""
    (scenario,) = compare(runs(folder / "forecast", {"sync": 10.0, "async": 5.0}, 3, off))
    real = {run.name: run for run in runs(folder / "measured", measured, 2)}
    return forecast.forecast_of(scenario, real)


def test_the_first_at_the_target_is_foretold_with_when(tmp_path: Path) -> None:
    found = foretold(tmp_path, {"sync": 10.0, "async": 5.05})
    assert (found.winner, found.measured_winner) == ("async", "async")
    # A loss of 1 % above 2, 99 % of the way from 4.
    assert found.mean_s == pytest.approx(0.99 * 5 * 1.01)
    assert found.measured_s == pytest.approx(0.99 * 5.05 * 1.005)
    assert found.is_right
    assert found.is_inside
    assert "OUTSIDE" not in str(found)


def test_another_winner_is_wrong_and_another_time_outside(tmp_path: Path) -> None:
    found = foretold(tmp_path, {"sync": 5.0, "async": 9.0})
    assert (found.is_right, found.is_inside) == (False, False)
    assert str(found).endswith("OUTSIDE; first was sync, WRONG")


def test_one_that_never_comes_there_is_outside(tmp_path: Path) -> None:
    (scenario,) = compare(runs(tmp_path / "forecast", {"sync": 10.0, "async": 5.0}, 3))
    found = forecast.forecast_of(scenario, {})
    assert (found.measured_winner, found.measured_s, found.is_inside) == (None, None, False)


def test_the_interval_grows_with_what_is_not_known() -> None:
    own = stat(9.0, 10.0, 11.0)
    # Student's t of 2 degrees of freedom reaches 2.920 to either side with 90 %.
    assert forecast.half_s(own, 2) == pytest.approx(2.920 * math.sqrt(1 / 3 + 1 / 2), 1e-3)
    assert forecast.half_s(stat(10.0, 10.0).with_error(1.0), 2) == pytest.approx(1.645, 1e-3)
    assert forecast.half_s(stat(10.0), 2) == math.inf


def test_the_shipped_forecast_is_of_twelve_clusters() -> None:
    spec = read_spec(find_spec("forecast"))
    one_host, linked = forecast.networks(spec.cells)
    assert (one_host.mbps, linked.mbps) == (0.0, 200.0)
    clusters = {
        (cell.workers, cell.config.run.straggler, cell.config.run.jitter, network.mbps)
        for network in (one_host, linked)
        for cell in network.cells
    }
    assert len(clusters) == 12
    real = forecast.without_link(linked.cells[0])
    assert real.config.run.link_mbps == 0.0
    assert real.name == linked.cells[0].name
