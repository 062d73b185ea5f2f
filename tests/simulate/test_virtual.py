"""Virtual jobs: the loss of true gradients at the times of a simulation, and a record to replay."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from test_calibrate import write_run

from psdp import virtual
from psdp.audit.replaying import live as replayed
from psdp.errors import ConfigError
from psdp.modes import CANDIDATES
from psdp.records.events import Push, events_file, read_record
from psdp.simulate.calibrate import SHAPE

STEP_S, LATENCY_S = 0.5, 0.125
FREE = {"server_message_s": 0.0, "worker_message_s": 0.0, "average_s": 0.0}
CLUSTER = virtual.Cluster({"step_s": STEP_S, "latency_s": LATENCY_S, "apply_s": 0.25, **FREE})
TINY: dict[str, Any] = {
    "n_layer": 1,
    "n_head": 2,
    "n_embd": 16,
    "block_size": 16,
    "batch_size": 2,
    "max_steps": 6,
    "eval_every": 2,
    "eval_batches": 2,
    "log_every": 1,
    "record": True,
    "quiet": True,
}
JITTER = {"jitter": "exponential:0.5", "straggler": "2:3"}


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    path = tmp_path / "corpus.txt"
    path.write_bytes(np.random.default_rng(1).integers(97, 107, 6000, np.uint8).tobytes())
    return path


def train(out: Path, corpus: Path, workers: int = 3, **settings: Any) -> dict[str, Any]:
    """Return the summary of a virtual job."""
    given = TINY | {"corpus": (str(corpus),), "out": str(out)} | settings
    assert virtual.live(given, workers + settings.get("servers", 1), CLUSTER) == 0
    summary: dict[str, Any] = json.loads((out / "summary.json").read_text())
    return summary


@pytest.mark.parametrize(
    "settings",
    [
        {"mode": "sync", "backup_workers": 1, **JITTER},
        {"mode": "async", "servers": 2, "link_mbps": 1.0, **JITTER},
        {"mode": "async", "overlap": True, **JITTER},
        {"mode": "ssp", "balance": "dynamic", **JITTER},
        {"mode": "local", "merge": "async", **JITTER},
        {"mode": "easgd", **JITTER},
        {"mode": "auto", "max_steps": 20, **JITTER},
    ],
    ids=lambda settings: settings["mode"],
)
def test_its_record_is_replayed_to_the_same_bits(
    tmp_path: Path, corpus: Path, settings: dict[str, Any]
) -> None:
    made = train(tmp_path / "virtual", corpus, **settings)
    again = tmp_path / "again"
    ranks = 3 + settings.get("servers", 1)
    own = {"replay": str(tmp_path / "virtual"), "out": str(again), "quiet": True, "jitter": None}
    replayed(own | {"straggler": None, "link_mbps": 0.0}, ranks)
    summary = json.loads((again / "summary.json").read_text())
    assert summary["weights_sha256"] == made["weights_sha256"]
    assert made["version"] == summary["version"] > 0


def test_its_times_are_those_of_the_cluster(tmp_path: Path, corpus: Path) -> None:
    run = tmp_path / "run"
    train(run, corpus, mode="sync", eval_every=0)
    lines = map(json.loads, (run / "metrics.jsonl").read_text().splitlines())
    times_s = [line["time_s"] for line in lines if line["kind"] == "train"]
    # The first pull is on its way; then a step, its push, an update, and the answer.
    first_s, period_s = 2 * LATENCY_S + STEP_S + LATENCY_S, STEP_S + 2 * LATENCY_S + 0.25
    average_s = np.diff(times_s)[0] - period_s
    assert times_s[0] == pytest.approx(first_s)
    assert 0 <= average_s < 1e-6
    np.testing.assert_allclose(np.diff(times_s), period_s, atol=1e-6)


def test_a_mode_that_chooses_goes_over_where_the_simulation_does(
    tmp_path: Path, corpus: Path
) -> None:
    slow = {"straggler": "3:4", "max_steps": 20, "eval_every": 0}
    made = train(tmp_path / "run", corpus, mode="auto", **slow)
    (change,) = made["modes"]
    lines = map(json.loads, (tmp_path / "run" / "metrics.jsonl").read_text().splitlines())
    (told,) = (line for line in lines if line["kind"] == "mode")
    assert told["mode"] == change["mode"] == made["choice"]["mode"]
    assert [one["mode"] for one in told["compared"]] == list(CANDIDATES)
    # After the first round, of which little is known, four of the slowest worker.
    assert change["version"] == 5
    assert told["time_s"] == pytest.approx(5 * (4 * STEP_S + 2 * LATENCY_S + 0.25), rel=0.03)


def test_a_mode_that_chooses_says_why_it_stays(tmp_path: Path, corpus: Path) -> None:
    made = train(tmp_path / "run", corpus, mode="auto", max_steps=120, eval_every=0)
    (change,) = made["modes"]
    assert made["choice"]["mode"] == change["mode"]
    assert made["choice"]["version"] > change["version"]
    assert [one["mode"] for one in made["choice"]["compared"]] == list(CANDIDATES)


def test_its_costs_are_recorded(tmp_path: Path, corpus: Path) -> None:
    train(tmp_path / "run", corpus, mode="async", max_steps=12)
    config = json.loads((tmp_path / "run" / "config.json").read_text())
    assert config["costs"] == CLUSTER.record(config["parameters"])
    assert {name: config["costs"][name] for name in ("step_ms", "latency_us", "apply_ms")} == {
        "step_ms": 500.0,
        "latency_us": 125000.0,
        "apply_ms": 250.0,
    }
    assert "calibrate" not in config["costs"]
    assert "mtbf_s" not in config["costs"]


def test_a_straggler_is_slow_in_virtual_time(tmp_path: Path, corpus: Path) -> None:
    run = tmp_path / "run"
    train(run, corpus, mode="async", straggler="3:4", max_steps=16)
    pushed = [
        each.event.worker
        for each in read_record(events_file(run, 0)).happened
        if isinstance(each.event, Push)
    ]
    assert pushed.count(1) >= 2 * pushed.count(3) > 0


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        ("--resume x", "--resume does not go with a virtual job: it begins at the beginning"),
        ("--mode allreduce", "a virtual job needs --mode .*, got allreduce"),
        ("--spares 1", "--spares does not go with a virtual job: no rank is lost; drop it"),
        (
            "--virtual-workers 4",
            "--virtual-workers 4 does not .* of 2 worker.*, or say --workers 4",
        ),
        ("--virtual-workers 1", "--virtual-workers 1 does not .*, or say --workers 1"),
        ("--mtbf-s 5", "unrecognized arguments: --mtbf-s"),
        ("--step-ms -1", "expected a number of at least 0"),
        ("--calibrate nowhere", "nowhere: config.json: No such file"),
    ],
)
def test_what_cannot_be_is_refused(flags: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        virtual.parse(["--workers", "2", *flags.split()])


def test_as_many_virtual_workers_as_there_are_make_no_difference(
    tmp_path: Path, corpus: Path
) -> None:
    virtual.parse(["--workers", "3", "--virtual-workers", "3"])
    made = train(tmp_path / "run", corpus, mode="sync")
    same = train(tmp_path / "same", corpus, mode="sync", virtual_workers=3)
    assert same["weights_sha256"] == made["weights_sha256"]


@pytest.mark.parametrize(
    ("settings", "signal", "status", "said"),
    [
        ({"lr": 1e30, "warmup_steps": 0, "max_steps": 50}, None, 7, "NaN or Inf at step"),
        ({}, "SIGINT", 130, "psdp: stopped by SIGINT"),
    ],
)
def test_how_it_ended_is_said_once(
    tmp_path: Path,
    corpus: Path,
    capsys: pytest.CaptureFixture[str],
    settings: dict[str, Any],
    signal: str | None,
    status: int,
    said: str,
) -> None:
    given = TINY | {"corpus": (str(corpus),), "out": str(tmp_path / "run"), "mode": "async"}
    assert virtual.live(given | settings, 4, CLUSTER, lambda: signal) == status
    costs, line = capsys.readouterr().err.splitlines()
    assert costs.startswith("virtual time: step 500 ms")
    assert said in line


def test_steps_of_another_shape_say_nothing(
    tmp_path: Path, corpus: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = write_run(tmp_path / "run")
    recorded = json.loads((run / "config.json").read_text())
    recorded["settings"] |= {name: TINY[name] for name in SHAPE & TINY.keys()}
    (run / "config.json").write_text(json.dumps(recorded))
    with pytest.raises(ConfigError, match="--batch-size is 2 there, and 12 here, where steps"):
        virtual.parse(["--workers", "2", "--calibrate", str(run)])
    shape = "--n-layer 1 --n-head 2 --n-embd 16 --block-size 16 --batch-size 2 --max-steps 2"
    own = f"--corpus {corpus} --eval-batches 1 --quiet --out {tmp_path / 'again'}"
    flags = f"--workers 2 --mode async --calibrate {run} {shape} {own}"
    assert virtual.main(flags.split()) == 0
    costs = json.loads((tmp_path / "again" / "config.json").read_text())["costs"]
    assert (costs["calibrate"], costs["calibrate_error"]) == ([str(run)], None)
    said = capsys.readouterr().err
    assert said.startswith("fitted from")
    assert "\nvirtual time: step " in said
