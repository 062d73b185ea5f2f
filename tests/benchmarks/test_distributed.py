"""The benchmark of two cores: its arithmetic, and one run of the smallest kind."""

from __future__ import annotations

import json
import os
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from distributed import Round, judge, row, where_time_went
from records import Totals
from session import run_session
from sides import JobFailed, Plan, psdp_command, run

from psdp.cli import given_settings
from psdp.config import Config

ROOT = Path(__file__).parents[2]
TOTALS = Totals(
    wall_s=20.0,
    workers={
        "1": {"compute_s": 15.0, "push_s": 1.0, "wait_s": 3.0, "pull_s": 1.0},
        "2": {"compute_s": 14.0, "push_s": 1.5, "wait_s": 3.5, "pull_s": 1.0},
    },
    server_percent={"0": 6.25},
)
ROUND = Round(
    psdp=1800,
    ddp=1500,
    psdp_alone=2000,
    torch_alone=1875,
    loss_difference=1e-6,
    totals=TOTALS,
)


@pytest.fixture
def plan(tmp_path: Path) -> Plan:
    return Plan("nano", warmup=3, steps=9, cores=(0, 1), folder=tmp_path)


def test_efficiency_is_the_job_over_its_lone_processes() -> None:
    assert ROUND.ratio == pytest.approx(1.2)
    assert ROUND.psdp_efficiency == pytest.approx(0.9)
    assert ROUND.ddp_efficiency == pytest.approx(0.8)


def test_ratios_are_taken_within_a_round_before_their_median(plan: Plan) -> None:
    # A machine that is at half its speed in one round changes no ratio.
    slow = replace(ROUND, psdp=900, ddp=750, psdp_alone=1000, torch_alone=937.5)
    result = judge(plan, [ROUND, slow, replace(ROUND, loss_difference=2e-6)])
    assert str(result.ratio) == "1.200 (1.200 .. 1.200)"
    assert str(result.psdp_efficiency) == "0.900 (0.900 .. 0.900)"
    assert result.psdp_tokens_per_s == 1800
    assert result.largest_loss_difference == 2e-6


def test_the_table_says_where_every_ranks_time_went(plan: Plan) -> None:
    result = judge(plan, [ROUND])
    assert row(result).split() == [
        *("nano", "1800", "1500", "1.200", "(1.200", "..", "1.200)"),
        *("0.900", "(0.900", "..", "0.900)", "0.800", "(0.800", "..", "0.800)", "1.0e-06"),
    ]
    assert where_time_went(result) == [
        "  psdp worker, rank 1: compute 15.00 s, push 1.00 s, wait 3.00 s, pull 1.00 s",
        "  psdp worker, rank 2: compute 14.00 s, push 1.50 s, wait 3.50 s, pull 1.00 s",
        "  psdp server, rank 0: 6.2 % of a core, in 20.00 s",
    ]


def test_the_psdp_job_has_the_size_of_the_plan_and_a_record_where_the_clock_starts(
    plan: Plan,
) -> None:
    command = psdp_command(plan, plan.folder / "run")
    flags = command[command.index("-n") + 2 :]
    config = Config.from_flat(given_settings(flags)).resolved()
    assert config.model == plan.size.model
    assert config.run.batch_size == plan.size.batch_size
    assert config.run.max_steps == 12
    assert plan.warmup % config.run.log_every == 0


def test_the_corpus_is_enough_for_all_steps(plan: Plan) -> None:
    plan.write_corpus()
    assert plan.corpus.stat().st_size > 2 * plan.all_steps * plan.size.tokens_per_step


def test_a_job_that_fails_says_what_it_printed(plan: Plan) -> None:
    code = "import sys; sys.exit('the disk is on fire')"
    with pytest.raises(JobFailed, match=r"(?s)status 1.*the disk is on fire"):
        run([sys.executable, "-c", code], plan)


@pytest.mark.mpi
@pytest.mark.one_mpi
@pytest.mark.timeout(240)
@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="needs two cores")
def test_a_short_run_compares_both_sides(tmp_path: Path) -> None:
    pytest.importorskip("torch")
    paths = [str(ROOT), os.environ.get("PYTHONPATH", "")]
    command = [sys.executable, str(ROOT / "benchmarks" / "distributed.py"), "--sizes", "nano"]
    benchmark = run_session(
        [*command, "--rounds", "1", "--steps", "2", "--json", "result.json"],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, paths))},
        timeout_s=220,
    )
    assert benchmark.status == 0, benchmark.output
    (result,) = json.loads((tmp_path / "result.json").read_text())
    assert result["size"] == "nano"
    assert result["largest_loss_difference"] < 1e-4
    (only,) = result["rounds"]
    assert all(only[side] > 0 for side in ("psdp", "ddp", "psdp_alone", "torch_alone"))
    assert set(only["totals"]["workers"]) == {"1", "2"}
    assert "psdp server, rank 0" in benchmark.output
