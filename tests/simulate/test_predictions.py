"""Simulated jobs against what can be computed by hand."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from psdp.simulate.__main__ import main
from psdp.simulate.costs import Costs
from psdp.simulate.scenario import Prediction, job_of, predict

FREE = Costs(step_s=(0.05,), latency_s=0.0, server_message_s=0.0, worker_message_s=0.0)
"""Steps of 50 ms; nothing else takes time."""


def predicted(workers: int, costs: Costs = FREE, **settings: Any) -> Prediction:
    base: dict[str, Any] = {"max_steps": 200, "mode": "sync"}
    return predict(job_of(base | settings, workers, 1000), costs)


@pytest.mark.parametrize("mode", ["sync", "async", "ssp", "local", "easgd"])
def test_equal_workers_for_whom_all_else_is_free_compute_all_the_time(mode: str) -> None:
    result = predicted(4, mode=mode)
    assert result.steps_per_s == pytest.approx(20, rel=1e-6)
    assert result.computing == pytest.approx(1, abs=1e-6)
    assert result.drained


def test_a_straggler_holds_up_sync_and_not_async() -> None:
    straggler = {"straggler": "4:4", "max_steps": 400}
    assert predicted(4, **straggler).steps_per_s == pytest.approx(20 / 4, rel=1e-6)
    assert predicted(4, mode="ssp", **straggler).steps_per_s == pytest.approx(20 / 4, rel=0.05)
    free = predicted(4, mode="async", **straggler)
    assert free.steps_per_s == pytest.approx(20 * (3 + 1 / 4) / 4, rel=0.02)
    # A step is three gradients here, those of the others.
    backed = predicted(4, backup_workers=1, **straggler)
    assert backed.steps_per_s == pytest.approx(20, rel=0.02)
    assert backed.dropped > 0


def test_a_round_of_sync_takes_as_long_as_its_slowest_step() -> None:
    """Of 4 workers, each 4 times slower with probability 0.1: 1 + 3 (1 - 0.9^4) on average."""
    result = predicted(4, jitter="bernoulli:0.1:4", max_steps=4000)
    assert result.steps_per_s == pytest.approx(20 / (1 + 3 * (1 - 0.9**4)), rel=0.03)
    free = predicted(4, mode="async", jitter="bernoulli:0.1:4", max_steps=4000)
    assert free.steps_per_s == pytest.approx(20 / 1.3, rel=0.03)


def test_one_exchange_adds_its_parts_to_a_step() -> None:
    costs = Costs(
        step_s=(0.05,), latency_s=1e-3, server_message_s=0.0, worker_message_s=0.0, apply_s=8e-3
    )
    assert predicted(1, costs).steps_per_s == pytest.approx(1 / (0.05 + 2e-3 + 8e-3), rel=1e-3)


def test_a_server_s_port_bounds_all_modes_and_more_servers_widen_it() -> None:
    """64 workers push 4 MB each through 1000 Mbit/s: 2.048 s a step, one way."""
    settings: dict[str, Any] = {"link_mbps": 1000.0, "max_steps": 30}

    def speed(mode: str, servers: int) -> float:
        job = job_of(settings | {"mode": mode, "servers": servers}, 64, 1_000_000)
        return predict(job, FREE).steps_per_s

    bound = 1e9 / 8 / (64 * 4e6)
    for mode in ("async", "ssp"):
        assert speed(mode, 1) == pytest.approx(bound, rel=0.05)
        assert speed(mode, 4) == pytest.approx(4 * bound, rel=0.1)
    assert bound / 2 * 0.9 < speed("sync", 1) <= bound


@pytest.mark.parametrize("staleness", [0, 1, 4])
def test_no_worker_is_told_to_go_on_beyond_the_bound(staleness: int) -> None:
    result = predicted(8, mode="ssp", staleness=staleness, jitter="exponential:1", straggler="8:3")
    assert result.max_clock_gap == staleness


def test_the_same_seed_gives_the_same_course_and_another_seed_another() -> None:
    settings: dict[str, Any] = {"mode": "async", "jitter": "exponential:0.5"}
    assert predicted(8, **settings) == predicted(8, **settings)
    assert predicted(8, **settings) != predicted(8, seed=1, **settings)


def test_who_fails_is_missed_until_it_is_back() -> None:
    """Down for as long as up: half of the workers compute at any time."""
    costs = Costs(
        step_s=(0.05,), latency_s=0.0, server_message_s=0.0, worker_message_s=0.0,
        mtbf_s=20.0, restart_s=20.0,
    )  # fmt: skip
    result = predicted(32, costs, mode="async", max_steps=2000)
    assert result.failures > 50
    assert result.drained
    assert result.away == pytest.approx(0.5, abs=0.1)


def test_the_command_prints_a_row_for_every_combination_and_writes_them(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "rows.json"
    flags = ["--workers", "4,8", "--mode", "sync,async", "--max-steps", "20", "--json", str(path)]
    assert main(flags) == 0
    lines = capsys.readouterr().out.splitlines()
    assert sum(line.startswith(("sync ", "async ")) for line in lines) == 4
    rows = json.loads(path.read_text())
    assert "steps_per_s" in json.dumps(rows)


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--workers", "0"], "--workers"),
        (["--workers", "4", "--mode", "wrong"], "--mode"),
        (["--workers", "4", "--step-ms", "-1"], "--step-ms"),
        (["--workers", "4", "--calibrate", "nowhere"], "--calibrate nowhere"),
        (["--workers", "4", "--mode", "allreduce"], "allreduce"),
    ],
)
def test_wrong_input_is_one_line_and_status_2(
    flags: list[str], said: str, capfd: pytest.CaptureFixture[str]
) -> None:
    try:
        status = main(flags)
    except SystemExit as error:
        status = int(str(error.code))
    assert status == 2
    assert said in capfd.readouterr().err
