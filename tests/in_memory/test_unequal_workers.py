"""Modes for unequal workers, who train alone or are not waited for: what they must come out as."""

from __future__ import annotations

import time
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from jobs import VOCAB, Training, before_gradient, corpus, die_at, train

from psdp.data.tokens import Tokens
from psdp.errors import NumericsError
from psdp.language import Language
from psdp.policies import make_policy
from psdp.protocol import Drop, Push
from psdp.records.events import events_file, read_record
from psdp.servers.ending import Ended
from psdp.task import Step
from psdp.workers.worker import Worker

pytestmark = pytest.mark.timeout(90)

AVERAGE: dict[str, Any] = {"mode": "local", "outer_optimizer": "average"}
SGD: dict[str, Any] = {"optimizer": "sgd", "lr": 0.5, "weight_decay": 0.0, "grad_clip": 0.0}

MODES: list[dict[str, Any]] = [
    {"mode": "sync", "backup_workers": 1},
    {"mode": "local", "local_steps": 4},
    {"mode": "local", "local_steps": 4, "merge": "async", "outer_optimizer": "nesterov"},
    {"mode": "easgd", "local_steps": 4},
]


def mode_name(mode: dict[str, Any]) -> str:
    return "-".join(str(value) for value in mode.values())


def close(a: Training, b: Training) -> None:
    np.testing.assert_allclose(a.weights, b.weights, rtol=0, atol=1e-9)


@pytest.mark.parametrize("workers", [1, 3])
@pytest.mark.parametrize("servers", [1, 2])
def test_one_local_step_of_plain_sgd_and_the_average_equal_sync(
    tmp_path: Path, workers: int, servers: int
) -> None:
    common = {"workers": workers, "servers": servers, "max_steps": 20, **SGD}
    local = train(tmp_path / "local", local_steps=1, **AVERAGE, **common)
    close(local, train(tmp_path / "sync", mode="sync", **common))
    assert local.summary["version"] == 20


@pytest.mark.parametrize("merge", ["sync", "async"])
@pytest.mark.parametrize("steps", [1, 3, 50])
@pytest.mark.parametrize("optimizer", ["adamw", "momentum"])
def test_a_lone_worker_trains_as_if_there_were_no_rounds(
    tmp_path: Path, optimizer: str, steps: int, merge: str
) -> None:
    common = {"max_steps": 20, "optimizer": optimizer, "lr": 1e-2, "grad_clip": 0.5, "beta1": 0.9}
    local = train(tmp_path / "local", local_steps=steps, merge=merge, **AVERAGE, **common)
    close(local, train(tmp_path / "sync", mode="sync", **common))
    assert local.summary["version"] == -(-20 // steps)
    assert local.summary["tokens"] == 20 * 2 * 8


def test_the_average_of_two_workers_is_that_of_two_runs_of_their_own(tmp_path: Path) -> None:
    """A worker alone on its half, from the same weights, ends where its local steps do."""
    common = {
        "max_steps": 5, "optimizer": "adamw", "lr": 1e-2, "lr_schedule": "constant", "beta1": 0.9
    }  # fmt: skip
    together = train(tmp_path / "both", workers=2, local_steps=5, **AVERAGE, **common)
    assert together.summary["version"] == 1
    alone = []
    for number in (0, 1):

        def only_its_batches(run: Training, number: int = number) -> None:
            run.worker(0).hosted[1].share = together.job.share(number + 1)

        alone.append(train(tmp_path / str(number), prepare=only_its_batches, **common))
    mean = (alone[0].weights + alone[1].weights) / 2
    np.testing.assert_allclose(together.weights, mean, rtol=0, atol=1e-9)
    assert np.abs(alone[0].weights - mean).max() > 1e-3


def test_elastic_averaging_of_one_worker_follows_its_equations(tmp_path: Path) -> None:
    seen: list[Any] = []

    def watch(run: Training) -> None:
        worker = run.worker(0)
        before_gradient(worker, lambda _n: seen.append(worker.replica.weights.copy()))

    rate, common = 0.25, {"max_steps": 6, **SGD, "lr_schedule": "constant", "warmup_steps": 0}
    run = train(tmp_path, prepare=watch, mode="easgd", local_steps=1, elastic_rate=rate, **common)
    worker = run.worker(0)
    center = own = seen[0]
    for clock in range(6):
        np.testing.assert_allclose(seen[clock], own, rtol=0, atol=1e-10)
        worker.replica.weights[...] = own
        worker.replica.clear()
        task = Language(run.job.config, VOCAB, *map(Tokens.of, corpus()))
        batch = task.batch(run.job.share(1), clock)
        worker.replica.model.add_gradient(batch, Step())
        own = own - 0.5 * worker.replica.gradient
        own, center = own - rate * (own - center), center + rate * (own - center)
        seen.append(own)
    np.testing.assert_allclose(run.weights, center, rtol=0, atol=1e-10)


def test_evaluations_on_the_way_leave_a_workers_own_weights_alone(tmp_path: Path) -> None:
    common = {"mode": "easgd", "local_steps": 2, "max_steps": 8, "lr": 1e-2}
    evaluated = train(tmp_path / "a", eval_every=2, **common)
    np.testing.assert_array_equal(evaluated.weights, train(tmp_path / "b", **common).weights)
    assert len(evaluated.metrics("eval")) > 2


def test_fifty_local_steps_push_a_fiftieth_of_the_bytes(tmp_path: Path) -> None:
    common = {"workers": 2, "max_steps": 100, "n_layer": 1}
    sync = train(tmp_path / "sync", **common)
    local = train(tmp_path / "local", mode="local", local_steps=50, **common)
    assert local.summary["bytes_pushed"] * 50 == sync.summary["bytes_pushed"]


@pytest.mark.parametrize("mode", MODES, ids=mode_name)
def test_training_lowers_the_loss(tmp_path: Path, mode: dict[str, Any]) -> None:
    # Few rounds: an outer optimizer with much momentum would still be swinging.
    gentle = {"outer_momentum": 0.3} if "outer_optimizer" in mode else {}
    run = train(tmp_path, workers=2, max_steps=120, batch_size=4, lr=1e-2, **mode, **gentle)
    losses = [record["loss"] for record in run.metrics("train")]
    assert losses[-1] < losses[0] - 0.3


def test_a_local_gradient_with_nan_is_refused_by_name(tmp_path: Path) -> None:
    def spoil(run: Training) -> None:
        worker = run.worker(1)

        def action(count: int) -> None:
            if count == 3:
                worker.replica.weights[5] = np.nan

        before_gradient(worker, action)

    with pytest.raises(NumericsError, match="rank 2 sent a gradient with NaN"):
        train(tmp_path, workers=2, prepare=spoil, mode="local", local_steps=5)


# Every one of these modes, as the others in test_training_in_memory.py


@pytest.mark.parametrize("servers", [1, 2])
@pytest.mark.parametrize("mode", MODES, ids=mode_name)
def test_every_mode_spends_its_budget_and_says_so(
    tmp_path: Path, mode: dict[str, Any], servers: int
) -> None:
    run = train(tmp_path, workers=3, servers=servers, max_steps=10, eval_every=5, **mode)
    pushes, summary = 10 * (3 - mode.get("backup_workers", 0)), run.summary
    assert (summary["steps"], summary["tokens"]) == (10, pushes * 2 * 8)
    assert [sum(server.progress.clocks.values()) for server in run.servers] == [pushes] * servers
    assert summary["stopped_by"] == "budget"
    assert summary["weights_sha256"] == run.weights_sha256
    assert [record["tokens"] for record in run.metrics("eval")][-1] == summary["tokens"]
    assert max(run.checkpoints()) == 10
    if mode["mode"] == "local" and "merge" not in mode:
        assert summary["version"] == 3  # 4 + 4 + 2 steps
        assert summary["bytes_pushed"] == 3 * 3 * run.job.table.size * 8


@pytest.mark.parametrize("mode", MODES, ids=mode_name)
def test_when_a_worker_dies_the_others_do_its_work(tmp_path: Path, mode: dict[str, Any]) -> None:
    run = train(
        tmp_path, workers=3, max_steps=12, prepare=lambda run: die_at(run.worker(1), 5), **mode
    )
    pushes = 12 * (3 - mode.get("backup_workers", 0))
    assert run.summary["tokens"] == pushes * 2 * 8
    assert run.summary["stopped_by"] == "budget"


@pytest.mark.parametrize("mode", MODES, ids=mode_name)
def test_after_a_signal_the_rest_of_the_budget_is_trained(
    tmp_path: Path, mode: dict[str, Any]
) -> None:
    told: list[int] = []

    def watch(run: Training) -> None:
        for number in range(2):  # whichever of them is given most to do
            before_gradient(run.worker(number), told.append)

    settings = {"workers": 2, "max_steps": 30, **mode}
    with pytest.raises(Ended, match="the weights so far are in"):
        train(
            tmp_path,
            prepare=watch,
            signalled=lambda rank: "SIGTERM" if len(told) > 15 and rank == 0 else None,
            **settings,
        )
    run = train(tmp_path, resume=tmp_path, **settings)
    assert run.summary["stopped_by"] == "budget"
    assert run.summary["tokens"] == run.job.units


def test_the_gradients_of_a_straggler_are_dropped_and_counted(tmp_path: Path) -> None:
    """It is held up until the others are done with most of their work."""

    def hold(run: Training) -> None:
        slow: Worker = run.worker(1)

        def action(count: int) -> None:
            deadline = time.monotonic() + 20
            while count == 0 and run.progress.version < 5 and time.monotonic() < deadline:
                pass

        before_gradient(slow, action)

    run = train(tmp_path, workers=3, max_steps=10, backup_workers=1, prepare=hold, lr=1e-2)
    assert run.summary["dropped"]["2"] >= 1
    assert run.summary["tokens"] == 10 * 2 * 2 * 8
    assert run.summary["version"] == 10


def test_the_records_tell_the_learning_rate_that_workers_train_with(tmp_path: Path) -> None:
    common = {"max_steps": 8, "warmup_steps": 0, "lr": 0.01, "min_lr": 0.001}
    local = train(tmp_path / "local", mode="local", local_steps=2, **common).metrics("train")
    sync = train(tmp_path / "sync", **common).metrics("train")
    assert [record["lr"] for record in local] == [record["lr"] for record in sync][::2]


def test_as_many_gradients_are_dropped_in_the_summary_as_in_the_events(tmp_path: Path) -> None:
    """What comes after the last update is dropped, too, but belongs to no step."""
    run = train(tmp_path, workers=3, max_steps=12, backup_workers=1, record=True, eval_every=0)
    policy = make_policy(run.job, 0, dict.fromkeys(run.job.workers, 0))
    dropped: Counter[str] = Counter()
    for happened in read_record(events_file(tmp_path, 0)).happened:
        event = happened.event
        if isinstance(event, Push):
            units = run.job.units_per_gradient
            work = replace(event.work, units=units, batch=event.work.clock)
            event = replace(event, slot=event.worker, work=work)
        for effect in policy.handle(event):
            if isinstance(effect, Drop):
                dropped[str(effect.worker)] += 1
    assert policy.drained
    assert run.summary["dropped"] == dropped


def test_a_straggler_for_some_steps_is_slow_in_these_alone_in_a_replay_too(tmp_path: Path) -> None:
    naps: list[bool] = []

    def watch(run: Training) -> None:
        run.worker(1).computing.pause = lambda extra_s: naps.append(extra_s > 0)  # type: ignore[method-assign]

    common: dict[str, Any] = {"workers": 2, "max_steps": 6, "straggler": "2:4@2-4"}
    run = train(tmp_path / "run", record=True, prepare=watch, **common)
    assert naps == [False, False, True, True, False, False]
    naps.clear()
    again = train(tmp_path / "again", replay=str(tmp_path / "run"), prepare=watch, **common)
    assert naps == [False, False, True, True, False, False]
    np.testing.assert_array_equal(run.weights, again.weights)
