"""The benchmark of the simulator: which runs count, and its table."""

from __future__ import annotations

from pathlib import Path

import pytest
import simulator
from simulator import Cell, Measured, Plan, Result, cores_used, row

from psdp.cli import given_settings
from psdp.config import Config


@pytest.fixture
def plan(tmp_path: Path) -> Plan:
    return Plan(tmp_path, steps=40, sleep=4, quiet_percent=3, repeats=3, tries=2)


def answer_with(monkeypatch: pytest.MonkeyPatch, runs: list[tuple[float, float]]) -> list[Path]:
    """Let jobs have this throughput, while others use so much; return their folders as they come"""
    left, folders = list(runs), []

    def run(_plan: Plan, _cell: Cell, out: Path) -> Measured:
        folders.append(out)
        return Measured(out, *left.pop(0))

    monkeypatch.setattr(Plan, "_run", run)
    return folders


def test_jobs_run_in_turn_and_quiet_runs_count(monkeypatch: pytest.MonkeyPatch, plan: Plan) -> None:
    cells = [Cell("sync", 2, straggler=False), Cell("async", 2, straggler=False)]
    first = [(90.0, 0.0), (10.0, 50.0), (100.0, 1.0)]
    second = [(50.0, 9.0), (30.0, 8.0), (60.0, 0.0)]
    third = [(70.0, 0.0), (80.0, 3.0)]
    folders = answer_with(monkeypatch, [*first, *second, *third])
    of_sync, of_async = plan.measure(cells)
    # 100 in place of the noisy 10; of the two that were noisy both times the less noisy one, 30.
    assert [run.gradients_per_s for run in of_sync] == [30, 70, 90]
    assert [run.gradients_per_s for run in of_async] == [60, 80, 100]
    assert len(set(folders)) == 8


def test_a_cell_is_a_job_of_the_worker(plan: Plan) -> None:
    for mode in simulator.MODES:
        flags = [*simulator.MODEL, *Cell(mode, 4, straggler=True).flags()]
        run = Config.from_flat(given_settings(flags)).resolved().run
        assert (run.mode, run.straggler) == (mode, "4:4")
    assert "--straggler" not in Cell("sync", 4, straggler=False).flags()


def test_an_error_is_of_the_prediction_and_stands_in_the_table() -> None:
    result = Result("local", 8, True, 200.0, 190.0, 1.25)
    assert result.error == pytest.approx(-0.05)
    assert row(result).split() == ["local", "8", "4", "times", "200.0", "190.0", "-5.0%", "1.2%"]


def test_what_cores_do_is_within_what_they_can() -> None:
    before, after = cores_used(), cores_used()
    assert 0 < before[0] <= before[1]
    assert before[1] <= after[1]
