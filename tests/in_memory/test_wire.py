"""Pushes in bfloat16: what is applied is the gradient rounded, in half the bytes, in every mode."""

from __future__ import annotations

import itertools
import json
import math
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from jobs import PATIENCE_S, Training, trace_peak, train, trainings_of

from psdp.errors import NumericsError
from psdp.records.events import events_file, with_hash
from psdp.workers.replica import Replica
from psdp.workers.training import ElasticTraining
from psdp.workers.worker import Worker

pytestmark = pytest.mark.timeout(90)

MODES: list[dict[str, Any]] = [
    {"mode": "sync"},
    {"mode": "sync", "overlap": True},
    {"mode": "sync", "backup_workers": 1},
    {"mode": "async"},
    {"mode": "async", "lag_compensation": "dc-asgd"},
    {"mode": "async", "balance": "dynamic"},
    {"mode": "ssp", "staleness": 1, "overlap": True},
    {"mode": "local", "local_steps": 3},
    {"mode": "local", "local_steps": 3, "merge": "async"},
    {"mode": "easgd", "local_steps": 2},
    {"mode": "auto", "local_steps": 2},
]
COMMON: dict[str, Any] = {"dtype": "float32", "lr": 1e-2, "max_steps": 15, "eval_every": 5}


def mode_name(mode: dict[str, Any]) -> str:
    return "-".join(str(value) for value in mode.values())


def rounding_in_pytorch(run: Training) -> None:
    """Let the workers of a float32 run push what PyTorch rounds to bfloat16."""
    for number in range(run.workers):
        worker = run.worker(number)
        _round_before(worker.replica)
        for training in trainings_of(worker):
            if isinstance(training, ElasticTraining):
                training.seen = np.zeros_like(training.seen)  # which is not its own any more


def _tell_of_float32(run: Path) -> None:
    """Let a recorded run be one of float32, for one of float32 to be its replay."""
    path, before, whole = events_file(run, 0), "", []
    for line in path.read_text().splitlines():
        *content, _ = json.loads(line)
        if not whole:
            content[1]["settings"]["wire_dtype"] = "float32"
        text, before = with_hash(before, content)
        whole.append(f"{text}\n")
    path.write_text("".join(whole))
    summary = run / "summary.json"
    summary.write_text(json.dumps(json.loads(summary.read_text()) | {"events": None}))


def _round_before(replica: Replica) -> None:
    fetch = replica.fetch

    def rounding() -> None:
        own = torch.from_numpy(replica.own_gradient)
        own.copy_(own.bfloat16().float())
        fetch()

    replica.fetch = rounding  # type: ignore[method-assign]


@pytest.mark.parametrize(("servers", "transport"), [(1, "messages"), (2, "auto")])
@pytest.mark.parametrize("mode", MODES, ids=mode_name)
def test_a_run_is_that_of_float32_whose_gradients_are_rounded_by_another_hand(
    tmp_path: Path, mode: dict[str, Any], transport: str, servers: int
) -> None:
    """The second run follows the order of the first, and would name a norm that differs."""
    settings = COMMON | {"workers": 3, "servers": servers} | mode
    run = train(tmp_path / "bf16", wire_dtype="bf16", transport=transport, record=True, **settings)
    _tell_of_float32(run.folder)
    same = train(
        tmp_path / "float32", prepare=rounding_in_pytorch, replay=str(run.folder), **settings
    )
    np.testing.assert_array_equal(run.weights, same.weights)
    assert run.weights.dtype == np.float32
    for name in ("val_loss", "version_lag", "bytes_pulled"):
        assert run.summary[name] == same.summary[name]
    assert 2 * run.summary["bytes_pushed"] == same.summary["bytes_pushed"]


@pytest.mark.parametrize("servers", [1, 2])
def test_the_rounding_shows(tmp_path: Path, servers: int) -> None:
    runs = [
        train(tmp_path / wire, wire_dtype=wire, workers=3, servers=servers, **COMMON)
        for wire in ("bf16", "float32")
    ]
    assert runs[0].weights_sha256 != runs[1].weights_sha256


@pytest.mark.parametrize("mode", [MODES[0], MODES[3], MODES[7]], ids=mode_name)
def test_one_worker_resumes_bit_for_bit_where_it_does_in_float32(
    tmp_path: Path, mode: dict[str, Any]
) -> None:
    for wire in ("float32", "bf16"):
        settings = COMMON | mode | {"wire_dtype": wire, "checkpoint_every": 6}
        whole = train(tmp_path / wire, **settings)
        rest = train(tmp_path / f"{wire}-rest", resume=whole.checkpoints()[6], **settings)
        np.testing.assert_array_equal(rest.weights, whole.weights)


def test_two_servers_resume_bit_for_bit(tmp_path: Path) -> None:
    settings = COMMON | {"workers": 3, "servers": 2, "wire_dtype": "bf16", "checkpoint_every": 5}
    whole = train(tmp_path / "whole", **settings)
    rest = train(tmp_path / "rest", resume=whole.checkpoints()[5], **settings)
    np.testing.assert_array_equal(rest.weights, whole.weights)


@pytest.mark.parametrize("mode", [MODES[0], MODES[3], MODES[7], MODES[9]], ids=mode_name)
def test_training_ends_within_a_hundredth_of_float32(tmp_path: Path, mode: dict[str, Any]) -> None:
    losses = []
    for wire in ("float32", "bf16"):
        # One worker, so that the order is the same in all modes.
        run = train(tmp_path / wire, **COMMON | mode | {"max_steps": 300, "wire_dtype": wire})
        records = [record["loss"] for record in run.metrics("train")]
        assert np.mean(records[-10:]) < records[0] - 1.5
        losses.append(float(np.mean(records[-10:])))
    assert losses[0] != losses[1]
    assert abs(losses[0] - losses[1]) < 0.01


@pytest.mark.parametrize("servers", [1, 2])
@pytest.mark.parametrize("poison", [math.nan, math.inf, float(np.finfo(np.float32).max)])
@pytest.mark.parametrize("mode", MODES, ids=mode_name)
def test_a_gradient_that_is_not_finite_when_it_is_pushed_is_named(
    tmp_path: Path, mode: dict[str, Any], poison: float, servers: int
) -> None:
    poisoned, fetched = threading.Event(), 0

    def before_fetch(replica: Replica, action: Callable[[int], None]) -> None:
        fetch, counts = replica.fetch, itertools.count(1)

        def wrapped() -> None:
            action(next(counts))
            fetch()

        replica.fetch = wrapped  # type: ignore[method-assign]

    def prepare(run: Training) -> None:
        other, replica = run.worker(0).replica, run.worker(1).replica

        def wait(count: int) -> None:
            # Alone it could spend the whole budget before the gradient in question is computed.
            if count > 1:
                assert poisoned.wait(PATIENCE_S)

        def poison_second(count: int) -> None:
            nonlocal fetched
            fetched = count
            if count == 2:
                # The largest float32 is finite, and rounds to Inf.
                replica.own_gradient[-1] = poison
                poisoned.set()

        before_fetch(other, wait)
        before_fetch(replica, poison_second)

    rank = servers + 1
    with pytest.raises(NumericsError, match=f"rank {rank} sent a gradient with NaN or Inf at step"):
        train(
            tmp_path, workers=2, servers=servers, prepare=prepare, wire_dtype="bf16",
            **COMMON | mode,
        )  # fmt: skip
    assert fetched == 2, "it is this gradient that is named, not one on weights that it spoilt"


@pytest.mark.parametrize("wire", ["bf16", "float32"])
def test_what_only_rounding_makes_infinite_is_named_only_where_it_is_rounded(
    tmp_path: Path, wire: str
) -> None:
    def prepare(run: Training) -> None:
        replica = run.worker(0).replica
        fetch, counts = replica.fetch, itertools.count(1)

        def overflowing() -> None:
            if next(counts) == 3:
                replica.own_gradient[-1] = np.finfo(np.float32).max
            fetch()

        replica.fetch = overflowing  # type: ignore[method-assign]

    how = {"wire_dtype": wire, "prepare": prepare, **COMMON}
    if wire == "float32":
        assert train(tmp_path, **how).summary["stopped_by"] == "budget"
    else:
        with pytest.raises(NumericsError, match="rank 1 sent a gradient with NaN or Inf at step 3"):
            train(tmp_path, **how)


@pytest.mark.parametrize("transport", ["auto", "messages"])
def test_a_server_on_the_same_host_averages_a_gradient_where_it_lies(
    tmp_path: Path, transport: str
) -> None:
    seen: list[bool] = []

    def prepare(run: Training) -> None:
        worker, slot = run.worker(1), run.leader.serving.shard.slots[1]
        slot[...] = 0x1234
        seen.append(bool((worker.replica.gradient == 0x1234).all()))

    train(tmp_path, workers=2, prepare=prepare, wire_dtype="bf16", transport=transport, **COMMON)
    assert seen == [transport == "auto"]


def test_a_step_allocates_nothing_of_the_models_size(tmp_path: Path) -> None:
    """Server and worker together, from the tenth to the thirtieth step."""
    measured: list[int] = []

    def prepare(run: Training) -> None:
        trace_peak(run.worker(0), 10, 30, measured)

    big = {"n_embd": 128, "n_layer": 2, "max_steps": 35, "eval_every": 0, "val_fraction": 0.0}
    run = train(tmp_path, prepare=prepare, log_every=10, wire_dtype="bf16", **COMMON | big)
    # What is pushed is twice as much.
    assert measured[1] - measured[0] < run.job.table.size


def test_a_profile_tells_what_rounding_took(tmp_path: Path) -> None:
    run = train(tmp_path, wire_dtype="bf16", profile=True, **COMMON)
    worker: Worker = run.worker(0)
    size = run.job.table.size
    cost = worker.replica.profile.costs["rounding"]
    assert cost.calls == 15
    assert cost.bytes == 15 * 6 * size
    assert worker.replica.profile.costs["push"].bytes == 15 * 2 * size
    assert run.leader.serving.profile.costs["average"].bytes == 15 * 2 * size
