"""Costs from records that are made by hand."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest

from psdp.config import Config
from psdp.errors import ConfigError
from psdp.simulate.calibrate import calibrate
from psdp.simulate.costs import Costs
from psdp.simulate.course import rate
from psdp.simulate.plan import parse
from psdp.simulate.recorded import read_run
from psdp.simulate.world import World

WORKERS, STEPS, SIZE = 2, 30, 1000
BUSY_S, PERIOD_S = 0.04, 0.2
SETTINGS = Config.from_flat(
    {"mode": "sync", "max_steps": STEPS, "jitter": "uniform:4:4", "record": True}
)


def write_run(folder: Path, period_s: float = PERIOD_S, **changes: Any) -> Path:
    """Write what a synchronous run leaves of which each step takes so long: 0.16 s of it the
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
            time_s = 7.0 + step * period_s + 0.001 * rank
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
    fit = calibrate([write_run(tmp_path / "run")], Costs(cores=2))
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
    (how,) = fit.fits
    assert how.measured == pytest.approx(WORKERS / PERIOD_S, rel=0.01)
    assert how.simulated == pytest.approx(how.measured, rel=0.01)
    # A step, two messages of the worker, two of the server for the last of both, a copy, an update.
    known_s = 0.16 + 0.010 + 3 * 0.00375 + 0.001 + 0.0045
    assert 2 * costs.latency_s == pytest.approx(PERIOD_S - known_s, abs=0.005)


def test_several_runs_show_how_far_off_the_costs_are(tmp_path: Path) -> None:
    one, two = write_run(tmp_path / "one"), write_run(tmp_path / "two", period_s=0.25)
    alone, both = calibrate([one], Costs()), calibrate([one, two], Costs())
    assert both.costs.latency_s > alone.costs.latency_s
    assert len(both.costs.step_s) == 2 * len(alone.costs.step_s)
    fast, late = both.fits
    assert fast.error < 0 < late.error, "the mean is too slow for one, too fast for the other"
    assert f"off by {fast.error:+.1%} to {late.error:+.1%}" in str(both)
    assert "give several runs" in str(alone)
    assert [fit["error"] for fit in both.record()] == [fast.error, late.error]
    assert both.error == pytest.approx(math.sqrt((fast.error**2 + late.error**2) / 2))
    assert f"and speeds of other jobs known to +- {1.959964 * both.error:.1%} (95% inter" in str(
        both
    )
    assert alone.error is None


def test_runs_of_other_steps_are_not_fitted_together(tmp_path: Path) -> None:
    one, two = write_run(tmp_path / "one"), write_run(tmp_path / "two")
    config = json.loads((two / "config.json").read_text())
    config["settings"]["n_layer"] = 9
    (two / "config.json").write_text(json.dumps(config))
    with pytest.raises(
        ConfigError, match=r"two: --n-layer is 9 there, and \d+ in .*one, where .*; runs"
    ):
        calibrate([one, two], Costs())


def test_what_came_too_late_is_no_throughput(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run")
    config = json.loads((run / "config.json").read_text())
    config["settings"] |= {"backup_workers": 1}
    (run / "config.json").write_text(json.dumps(config))
    # Worker 2 is late each time: its gradient is of the version before.
    lines: list[list[Any]] = [["pull", 1], ["pull", 2]]
    for step in range(STEPS):
        at_s = step * PERIOD_S
        lines.append(["push", 1, step, step, 1, 0.16, 2.5, 1.0, at_s, BUSY_S, at_s])
        lines.append(["push", 2, 0, step, 1, 0.16, 2.5, 1.0, at_s + 0.01, BUSY_S, at_s])
    (run / "events-000000.jsonl").write_text("\n".join(map(json.dumps, lines)) + "\n")
    assert read_run(run).gradients_per_s() == pytest.approx(1 / PERIOD_S)


def test_the_ranks_of_several_hosts_do_not_share_cores(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run")
    config = json.loads((run / "config.json").read_text())
    (run / "config.json").write_text(json.dumps(config | {"hosts": ["one", "one", "two"]}))
    recorded = read_run(run)
    assert recorded.hosts == calibrate([run], Costs(cores=1)).costs.hosts == 2
    own, shared = (
        World(recorded.job, Costs(step_s=(0.1,), cores=1, hosts=hosts)).run().gradients_per_s()
        for hosts in (3, 1)
    )
    # Three quarters of a step are slept, and the other is computed at once or one after the other.
    assert (own, shared) == (pytest.approx(2 / 0.4, rel=0.01), pytest.approx(2 / 0.5, rel=0.01))


def test_cores_are_those_that_the_run_recorded_unless_they_are_said(tmp_path: Path) -> None:
    run, other = write_run(tmp_path / "run"), write_run(tmp_path / "other")
    unknown = calibrate([run], Costs())
    assert unknown.costs.cores is None
    assert "run(s) on cores that are not recorded, taken as one for each rank" in str(unknown)
    config = json.loads((run / "config.json").read_text())
    of = {"here": {"processor": "any", "cores": 1.5}, "there": {"processor": "any", "cores": 4}}
    (run / "config.json").write_text(json.dumps(config | {"machines": of}))
    recorded = calibrate([run], Costs())
    assert recorded.costs == calibrate([run], Costs(cores=1)).costs
    assert recorded.costs.latency_s < unknown.costs.latency_s, "ranks that wait for a core"
    assert "run(s) on 1 core(s) of a host, as recorded: 2 worker(s)" in str(recorded)
    said = parse(["--calibrate", str(run), "--cores", "2"])
    assert said.costs.cores == 2
    assert "on 2 core(s) of a host, as said" in str(said.calibration)
    (other / "config.json").write_text(json.dumps(config | {"machines": {"there": of["there"]}}))
    both = calibrate([other, run], Costs())
    assert both.costs.cores == 4
    assert "on 4 and 1 core(s) of a host, as recorded" in str(both)


def test_a_record_that_is_cut_off_is_refused(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run")
    events = run / "events-000000.jsonl"
    seal = {"file": events.name, "start": "0" * 32, "line": 62, "hash": "0" * 32}
    summary = json.loads((run / "summary.json").read_text())
    (run / "summary.json").write_text(json.dumps(summary | {"events": seal}))
    with pytest.raises(ConfigError, match=r"is damaged: it has 0 whole lines, chained by hashes"):
        calibrate([run], Costs())


def test_a_calibrated_run_is_simulated_with_its_own_settings(tmp_path: Path) -> None:
    run = read_run(write_run(tmp_path / "run"))
    assert (run.job.config.run.mode, len(run.job.workers), run.job.table.size) == ("sync", 2, SIZE)
    assert World(run.job, Costs(step_s=(BUSY_S,))).run().gradients == WORKERS * STEPS


def test_a_run_that_is_faster_than_its_costs_has_no_latency(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run", server_cpu_s={"0": 60.0})
    assert calibrate([folder], Costs()).costs.latency_s == 0


def test_throughput_is_measured_after_a_fifth_of_the_gradients() -> None:
    assert rate([]) == 0
    assert rate([(2.0, 8)]) == 4, "all of it, where there is one update"
    slow_start = [(10.0, 10), (20.0, 20), (21.0, 60), (22.0, 100)]
    assert rate(slow_start) == 80 / 2


def test_what_is_no_recorded_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"config\.json: No such file"):
        calibrate([tmp_path / "nowhere"], Costs())
    unrecorded = write_run(tmp_path / "unrecorded")
    (unrecorded / "events-000000.jsonl").unlink()
    with pytest.raises(ConfigError, match="a run that was made with --record"):
        calibrate([unrecorded], Costs())
    damaged = write_run(tmp_path / "damaged")
    (damaged / "summary.json").write_text("{")
    with pytest.raises(ConfigError, match=r"summary\.json is not JSON"):
        calibrate([damaged], Costs())
    older = write_run(tmp_path / "older")
    (older / "events-000000.jsonl").write_text('["push", 1, 0, 0, 1, 0.1, 2.5, 1.0]\n["stop"]\n')
    with pytest.raises(ConfigError, match="line 1 is no event"):
        calibrate([older], Costs())
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
            calibrate([other], Costs())
    virtual = write_run(tmp_path / "virtual")
    config = json.loads((virtual / "config.json").read_text())
    (virtual / "config.json").write_text(json.dumps(config | {"hosts": ["virtual"] * 3}))
    with pytest.raises(ConfigError, match=r"virtual: it is a virtual job, whose times were simul"):
        calibrate([virtual], Costs())
    short = write_run(tmp_path / "short")
    (short / "events-000000.jsonl").write_text('["pull", 1]\n')
    with pytest.raises(ConfigError, match="record a run of more steps"):
        calibrate([short], Costs())
