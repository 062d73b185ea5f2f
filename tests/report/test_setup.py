"""What a report says of model, data, optimizer, machine and software."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from made_runs import change_json, mark_as_tuned, write_run

from psdp.report.comparing import what_differs
from psdp.report.runs import read_runs
from psdp.report.scenarios import compare
from psdp.report.setup import setup


class Runs:
    """Makes runs, then the lines on them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.made: list[Path] = []

    def run(self, **settings: Any) -> Path:
        self.made.append(write_run(self.folder / f"run-{len(self.made)}", **settings))
        return self.made[-1]

    def lines(self) -> dict[str, str]:
        (scenario,) = compare(read_runs(self.made)[0])
        return dict(setup(scenario))


@pytest.fixture
def runs(tmp_path: Path) -> Runs:
    return Runs(tmp_path)


def test_all_that_is_needed_to_make_it_again_is_said(runs: Runs) -> None:
    runs.run()
    assert runs.lines() == {
        "Model": "architecture decoder, n-layer 4, n-head 4, n-embd 128, block-size 8; 1,000 "
        "parameters",
        "Data": "text; batch-size 2, grad-accum 1, tokenizer byte",
        "Optimizer": "optimizer adamw, lr 0.001, lr-schedule cosine, warmup-steps 0, beta1 0.5, "
        "beta2 0.99, weight-decay 0.1",
        "Budget": "max-steps 10, eval-every 250, eval-batches 40",
        "Machine": "2 workers and 1 server on here (a processor, 2 cores), threads used 1, kernels "
        "used compiled, vectors shared",
        "Software": "psdp 0.2, MPI MPI 5, Python 3.11, NumPy 2.4",
    }


def test_of_what_differs_it_is_said_in_which_rows(runs: Runs) -> None:
    runs.run()
    runs.run(mode="async", weight_decay=0.2)
    other = runs.run(mode="ssp", weight_decay=0.2)
    change_json(other / "config.json", hosts=["there"] * 3)
    lines = runs.lines()
    assert "weight-decay 0.1 (sync) or 0.2 (ssp S=4 and async)" in lines["Optimizer"]
    machine = "on here (a processor, 2 cores) (sync and async) or there (ssp S=4),"
    assert machine in lines["Machine"]


def test_a_cluster_that_one_does_not_have_is_told_by_its_costs(runs: Runs) -> None:
    costs = {"step_ms": 50.0, "step_ms_std": 0.0, "cores": None, "calibrate": ["a", "b"]}
    change_json(runs.run() / "config.json", costs=costs)
    same = "a virtual cluster (step-ms 50, calibrate a b)"
    assert f"1 server on {same}, threads" in runs.lines()["Machine"]
    change_json(runs.run(mode="async") / "config.json", costs=costs | {"step_ms": 5.0})
    other = same.replace("50", "5")
    assert f"on {same} (sync) or {other} (async), threads" in runs.lines()["Machine"]
    runs.run(mode="ssp")
    (scenario,) = compare(read_runs(runs.made)[0])
    assert f"machine {same} (sync) or here (a processor, 2 cores) (ssp S=4) or {other} (async)" in (
        what_differs(scenario.rows)
    )


def test_how_rows_were_tuned_is_said_with_what_came_out(runs: Runs) -> None:
    runs.run(max_steps=11)
    assert "Tuned" not in runs.lines()
    mark_as_tuned(runs.run(lr=0.01), lr=0.01, beta1=0.5)
    mark_as_tuned(runs.run(mode="async"), number=0, lr=0.001)
    late = runs.run(mode="ssp", lr=0.02)
    mark_as_tuned(late, lr=0.02)
    change_json(late / "search.json", seeds=[11], after_s=20.0, loss_given=None)
    assert runs.lines()["Tuned"] == (
        "the best of 5 trials on seeds 11, 12, by the loss at the end: sync, tuned: lr 0.01, beta1 "
        "0.5 (loss 1.500, as given 2.500); async, tuned: lr 0.001 (loss 1.500, which is as given); "
        "the best of 5 trials on seed 11, by the loss after 20 s: ssp S=4, tuned: lr 0.02 (loss "
        "1.500, as given diverged)"
    )


def test_without_servers_none_are_counted(runs: Runs) -> None:
    runs.run(mode="allreduce")
    assert runs.lines()["Machine"].startswith("2 workers on here (a processor, 2 cores),")


def test_what_an_older_run_did_not_write_down_is_not_made_up(runs: Runs) -> None:
    path = runs.run()
    for name in ("parameters", "hosts", "machines", "threads", "kernels", "versions"):
        change_json(path / "config.json", without=name)
    lines = runs.lines()
    assert lines["Model"].endswith("; parameters not recorded")
    assert "on not recorded, threads used not recorded" in lines["Machine"]
    assert lines["Software"].startswith("psdp not recorded, MPI not recorded")
