"""What the benchmark of the mode that chooses makes of loss curves."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest

from benchmarks import regret
from benchmarks.regret import CELLS, CHOOSES, FIXED, ROWS, Curve
from psdp.config import Config
from psdp.modes import CANDIDATES


def curve(gradients_per_s: float, worth: float = 1.0, gradients: int = 1600) -> Curve:
    """Return a run whose loss falls by one with every 400 gradients of worth 1."""
    done = np.linspace(0, gradients, 81)
    return Curve(done / gradients_per_s, done, 6 - worth * done / 400)


@pytest.mark.parametrize("cell", CELLS.values(), ids=str)
def test_every_run_of_a_cell_can_be(cell: regret.Cell) -> None:
    for row in ROWS.values():
        run = Config.from_flat(cell.settings() | row).resolved().run
        assert run.max_steps * cell.workers == regret.GRADIENTS


def test_regret_is_taken_when_the_first_of_the_fixed_ones_is_done() -> None:
    curves = {name: [curve(10.0)] for name in FIXED} | {CHOOSES: [curve(20.0)]}
    curves["async"] = [curve(40.0)]
    losses, found = regret.regret(curves)
    assert losses["async"] == pytest.approx(2.0)
    assert losses[CHOOSES] == pytest.approx(4.0)
    assert found == pytest.approx(1.0)
    curves[CHOOSES] = [curve(40.0, worth=1.1)]
    assert regret.regret(curves)[1] < 0


def test_worth_is_how_many_gradients_of_the_first_one_of_another_stands_for() -> None:
    curves = {name: [curve(10.0)] for name in ROWS}
    curves["async"] = [curve(10.0, worth=2.0), curve(99.0, worth=0.5)]
    curves |= {name: 2 * own for name, own in curves.items() if name != "async"}
    found = regret.worths(curves)
    assert list(found) == list(CANDIDATES)
    assert found["ssp"] == pytest.approx(1.0)
    # With half the worth it comes to half of the losses.
    assert found["async"] == pytest.approx(math.exp((4 * math.log(2) + 2 * math.log(0.5)) / 6))


def test_a_loss_that_is_never_reached_says_nothing() -> None:
    assert math.isnan(curve(10.0).gradients_to(0.5))
    assert curve(10.0).gradients_to(5.0) == pytest.approx(400)


def test_a_run_that_is_there_is_not_made_again(tmp_path: Path) -> None:
    (tmp_path / "summary.json").touch()
    regret.train(tmp_path, CELLS["2-equal"], ROWS["sync"], 1)
    assert [file.name for file in tmp_path.iterdir()] == ["summary.json"]
