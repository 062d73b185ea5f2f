"""Whole jobs that go over from mode to mode."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from jobs import Training, die_at, train

from psdp.protocol import Choice

pytestmark = pytest.mark.timeout(90)

COMMON: dict[str, Any] = {"mode": "auto", "workers": 3, "max_steps": 40, "lr": 1e-2}
SCRIPT = {9: "ssp", 24: "local", 36: "async", 42: "local-async", 54: "sync", 60: "local"}
"""After how many pushes to change to which mode."""


class Scripted:
    """Chooses what a test wants, in place of a :class:`psdp.protocol.Chooser`."""

    def __init__(self, script: dict[int, str]) -> None:
        self._script = script
        self._pushes = 0

    def pushed(self, *_seen: Any) -> None:
        self._pushes += 1

    def answered(self, *_seen: Any) -> None:
        pass

    def left(self, *_seen: Any) -> None:
        pass

    def choose(self, *_seen: Any) -> Choice | None:
        mode = self._script.get(self._pushes)
        return None if mode is None else Choice(mode, "the test says so")


def scripted(script: dict[int, str]) -> Any:
    def prepare(run: Training) -> None:
        run.leader.deciding.choosing.chooser = Scripted(script)  # type: ignore[assignment]

    return prepare


def modes(run: Training) -> list[str]:
    return [change["mode"] for change in run.summary["modes"]]


@pytest.mark.parametrize("servers", [1, 2])
def test_every_phase_counts_and_the_budget_is_kept(tmp_path: Path, servers: int) -> None:
    run = train(
        tmp_path, prepare=scripted(SCRIPT), servers=servers, local_steps=2, eval_every=10, **COMMON
    )
    summary = run.summary
    assert modes(run) == list(SCRIPT.values())
    assert (summary["mode"], summary["stopped_by"]) == ("auto", "budget")
    assert summary["tokens"] == 3 * 40 * 2 * 8
    changes = run.metrics("mode")
    assert [change["mode"] for change in changes] == modes(run)
    assert {change["reason"] for change in changes} == {"the test says so"}
    losses = [record["loss"] for record in run.metrics("train")]
    assert np.mean(losses[-5:]) < np.mean(losses[:5]) - 0.1
    for server in run.servers:
        assert server.progress.version == summary["version"]


@pytest.mark.parametrize("ranks", [1, 3])
def test_one_step_alone_averaged_is_the_step_of_sync(tmp_path: Path, ranks: int) -> None:
    """With plain SGD: w - lr g averaged over workers is w - lr times the mean of g."""
    plain = {"optimizer": "sgd", "lr": 0.5, "lr_schedule": "cosine", "grad_clip": 0.0}
    common = COMMON | plain | {"outer_optimizer": "average", "local_steps": 1}
    changes = {6: "local", 18: "sync", 30: "local"}
    common |= {"workers": ranks, "virtual_workers": 3}
    run = train(tmp_path / "auto", prepare=scripted(changes), **common)
    sync = train(tmp_path / "sync", **(COMMON | plain | {"mode": "sync"}))
    assert modes(run) == list(changes.values())
    np.testing.assert_allclose(run.weights, sync.weights, rtol=0, atol=1e-12)
    assert np.abs(run.weights).max() > 0.1


def test_the_outer_momentum_begins_anew_after_gradients(tmp_path: Path) -> None:
    """Of SGD's steps, one alone counts 1 + momentum times, as the first of Nesterov's does."""
    plain = {"optimizer": "sgd", "lr": 0.5, "lr_schedule": "constant", "warmup_steps": 0}
    plain |= {"grad_clip": 0.0, "weight_decay": 0.0, "max_steps": 5}
    own = {"mode": "auto", "local_steps": 1, "outer_momentum": 0.5}
    run = train(
        tmp_path / "auto",
        prepare=scripted({1: "local", 2: "sync", 3: "local"}),
        workers=1,
        **plain,
        **own,
    )
    assert modes(run) == ["local", "sync", "local"]
    job = Training(tmp_path / "by-hand", 1, None, plain)
    replica, weights = job.worker(0).replica, job.weights
    # The next gradient is out already when a mode is chosen.
    for clock, times in enumerate([1.0, 1.0, 1.5, 1.0, 1.5]):
        replica.weights[...] = weights
        replica.load()
        job.training(0).gradient(clock, clock, False)
        replica.fetch()
        weights -= times * 0.5 * replica.gradient
    np.testing.assert_allclose(run.weights, weights, rtol=0, atol=1e-12)


@pytest.mark.parametrize("servers", [1, 2])
@pytest.mark.parametrize("balance", ["static", "dynamic"])
def test_a_replay_changes_modes_where_the_run_did(
    tmp_path: Path, servers: int, balance: str
) -> None:
    settings = COMMON | {"servers": servers, "balance": balance, "local_steps": 2, "eval_every": 10}
    run = train(tmp_path / "run", prepare=scripted(SCRIPT), record=True, **settings)
    again = train(tmp_path / "again", replay=str(run.folder), record=True, **settings)
    np.testing.assert_array_equal(again.weights, run.weights)
    assert again.summary["modes"] == run.summary["modes"]
    assert {change["reason"] for change in again.metrics("mode")} == {"the test says so"}
    assert again.summary["choice"] == run.summary["choice"]
    lines = [(r.folder / "events-000000.jsonl").read_text().splitlines()[1:] for r in (run, again)]
    first, second = ([json.loads(line)[:-1][:3] for line in own] for own in lines)
    assert first == second


@pytest.mark.parametrize("servers", [1, 2])
def test_a_replay_says_why_the_run_stayed_in_its_mode(tmp_path: Path, servers: int) -> None:
    settings = COMMON | {"servers": servers, "record": True}
    stays = scripted({9: "ssp", 30: "ssp", 60: "ssp"})
    run = train(tmp_path / "run", prepare=stays, **settings)
    again = train(tmp_path / "again", replay=str(run.folder), **settings)
    choice = run.summary["choice"]
    assert run.summary["modes"][-1]["version"] < choice["version"]
    assert again.summary["choice"] == choice


def test_a_worker_that_dies_is_missed_in_no_phase(tmp_path: Path) -> None:
    run = train(
        tmp_path,
        prepare=lambda run: (scripted(SCRIPT)(run), die_at(run.worker(1), 8)),
        local_steps=2,
        **COMMON,
    )
    assert run.summary["tokens"] == 3 * 40 * 2 * 8
    assert modes(run) == list(SCRIPT.values())


def test_a_resumed_run_begins_in_sync_and_ends_with_its_budget(tmp_path: Path) -> None:
    settings = COMMON | {"local_steps": 2, "checkpoint_every": 20}
    first = train(tmp_path / "run", prepare=scripted({9: "local"}), **settings)
    checkpoint = min(first.checkpoints().items())[1]
    rest = train(tmp_path / "rest", resume=checkpoint, prepare=scripted({}), **settings)
    assert rest.summary["tokens"] == first.summary["tokens"]
    assert rest.summary["modes"] == []
