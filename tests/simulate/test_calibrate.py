"""Costs from records that are made by hand."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from psdp.config import Config
from psdp.errors import ConfigError
from psdp.simulate.calibrate import calibrate, read_run
from psdp.simulate.costs import Costs
from psdp.simulate.plan import parse
from psdp.simulate.world import World, rate

WORKERS, STEPS, SIZE = 2, 30, 1000
BUSY_S, PERIOD_S = 0.04, 0.2
SETTINGS = Config.from_flat(
    {"mode": "sync", "max_steps": STEPS, "jitter": "uniform:4:4", "record": True}
)


def write_run(folder: Path, **changes: Any) -> Path:
    """Write what a synchronous run leaves of which each step takes ``PERIOD_S``: 0.16 s of it the
    worker's step, three quarters of that asleep."""
    folder.mkdir()
    config = {"settings": SETTINGS.resolved().flat(), "workers": WORKERS, "parameters": SIZE}
    moved = WORKERS * 4 * SIZE
    summary = {
        "mode": "sync",
        "version": STEPS,
        "wall_s": 6.5,
        "pull_s": {"1": 0.031, "2": 0.031},
        "server_cpu_s": {"0": 0.585 + 0.065},
        "apply_s": STEPS * 0.0045,
        "bytes_pushed": STEPS * moved,
        "bytes_pulled": (STEPS + 1) * moved,
    }
    lines: list[list[Any]] = [["pull", 1], ["pull", 2]]
    for step in range(STEPS):
        # 11 ms of a step's processor time are the exchange's.
        cpu_s = (step + 1) * (BUSY_S + 0.011)
        busy_s = BUSY_S if step else 5.0  # the first is no measure
        for rank in (1, 2):
            time_s = 7.0 + step * PERIOD_S + 0.001 * rank
            lines.append(["push", rank, step, step, 1, 0.16, 2.5, 1.0, time_s, busy_s, cpu_s])
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "summary.json").write_text(json.dumps(summary | changes))
    (folder / "events-000000.jsonl").write_text("\n".join(map(json.dumps, lines)) + "\n")
    return folder


def test_a_run_of_a_task_of_ones_own_is_taken_with_its_size_and_its_unit(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run")
    config = json.loads((run / "config.json").read_text())
    own = {"task": {"name": "Line", "about": {}}, "units_per_batch": 20}
    (run / "config.json").write_text(json.dumps(config | own))
    recorded = read_run(run)
    assert recorded.job.units_per_gradient == 20
    plan = parse(["--calibrate", str(run)])
    assert (plan.size, plan.parameters) == (SIZE, SIZE)


def test_what_a_record_shows_is_read_off_and_the_latency_makes_up_the_rest(tmp_path: Path) -> None:
    fit = calibrate(write_run(tmp_path / "run"), Costs(cores=2))
    costs = fit.costs
    assert set(costs.step_s) == {BUSY_S}
    # Of each of 60 pushes, and its answer: (0.65 - 0.135 - 1 % of 6.5) / 60 / 2.
    assert costs.server_message_s == pytest.approx(0.00375)
    # 0.031 s for 31 pulls, a millisecond each, which is no message.
    assert costs.pull_s_per_byte * 4 * SIZE == pytest.approx(0.001)
    assert costs.worker_message_s == pytest.approx(0.005)
    # An update of two gradients is as much as one and two sevenths.
    assert costs.apply_s == pytest.approx(0.0045 / (1 + 2 / 7))
    assert costs.average_s == pytest.approx(costs.apply_s / 7)
    assert costs.cores == 2
    assert fit.measured == pytest.approx(WORKERS / PERIOD_S, rel=0.01)
    assert fit.fitted == pytest.approx(fit.measured, rel=0.01)
    # A step, two messages of the worker, two of the server for the last of both, a copy, an update.
    known_s = 0.16 + 0.010 + 3 * 0.00375 + 0.001 + 0.0045
    assert 2 * costs.latency_s == pytest.approx(PERIOD_S - known_s, abs=0.005)


def test_a_calibrated_run_is_simulated_with_its_own_settings(tmp_path: Path) -> None:
    run = read_run(write_run(tmp_path / "run"))
    assert (run.job.config.run.mode, len(run.job.workers), run.job.table.size) == ("sync", 2, SIZE)
    assert World(run.job, Costs(step_s=(BUSY_S,))).run().gradients == WORKERS * STEPS


def test_a_run_that_is_faster_than_its_costs_has_no_latency(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run", server_cpu_s={"0": 60.0})
    assert calibrate(folder, Costs()).costs.latency_s == 0


def test_throughput_is_measured_after_a_fifth_of_the_gradients() -> None:
    assert rate([]) == 0
    assert rate([(2.0, 8)]) == 4, "all of it, where there is one update"
    slow_start = [(10.0, 10), (20.0, 20), (21.0, 60), (22.0, 100)]
    assert rate(slow_start) == 80 / 2


def test_what_is_no_recorded_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"config\.json: No such file"):
        calibrate(tmp_path / "nowhere", Costs())
    unrecorded = write_run(tmp_path / "unrecorded")
    (unrecorded / "events-000000.jsonl").unlink()
    with pytest.raises(ConfigError, match="a run that was made with --record"):
        calibrate(unrecorded, Costs())
    damaged = write_run(tmp_path / "damaged")
    (damaged / "summary.json").write_text("{")
    with pytest.raises(ConfigError, match=r"summary\.json is not JSON"):
        calibrate(damaged, Costs())
    older = write_run(tmp_path / "older")
    (older / "events-000000.jsonl").write_text('["push", 1, 0, 0, 1, 0.1, 2.5, 1.0]\n["stop"]\n')
    with pytest.raises(ConfigError, match="line 1 is no event"):
        calibrate(older, Costs())
    for mode, why in (
        ("allreduce", "in --mode allreduce servers see no gradients"),
        ("auto", "in --mode auto .* record a run of one mode"),
        ("other", "there is no mode 'other'"),
    ):
        other = write_run(tmp_path / mode)
        settings = SETTINGS.resolved().flat() | {"mode": mode}
        config = {"settings": settings, "workers": WORKERS, "parameters": SIZE}
        (other / "config.json").write_text(json.dumps(config))
        with pytest.raises(ConfigError, match=why):
            calibrate(other, Costs())
    short = write_run(tmp_path / "short")
    (short / "events-000000.jsonl").write_text('["pull", 1]\n')
    with pytest.raises(ConfigError, match="record a run of more steps"):
        calibrate(short, Costs())
