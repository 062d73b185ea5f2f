"""Gradients that are late, in whole runs, against sums over the events that were recorded."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from jobs import Training, before_gradient, train

from psdp.backend import make_backend
from psdp.optim import DelayCompensation
from psdp.params import Array

pytestmark = pytest.mark.timeout(60)

SGD: dict[str, Any] = {
    "optimizer": "sgd", "lr": 0.1, "weight_decay": 0.0, "grad_clip": 0.0, "mode": "async",
    "lr_schedule": "constant", "warmup_steps": 0,
}  # fmt: skip


@pytest.mark.parametrize("servers", [1, 2])
@pytest.mark.parametrize("kind", ["none", "inverse", "dc-asgd"])
def test_every_gradient_moves_the_weights_as_its_rule_says(
    tmp_path: Path, kind: str, servers: int
) -> None:
    computed: dict[tuple[int, int], tuple[Array, Array]] = {}

    def watch(run: Training) -> None:
        for number in range(run.workers):
            worker = run.worker(number)
            compute = run.training(number).gradient

            def watched(
                clock: int,
                batch: int,
                leaves: bool,
                worker: Any = worker,
                compute: Any = compute,
                number: int = number + 1,
            ) -> float:
                loss: float = compute(clock, batch, leaves)
                vectors = worker.replica.weights.copy(), worker.replica.gradient.copy()
                computed[number, clock] = vectors
                return loss

            run.training(number).gradient = watched
        before_gradient(run.worker(2), lambda _count: time.sleep(5e-3))

    run = train(
        tmp_path, workers=3, max_steps=6, servers=servers, prepare=watch, record=True,
        lag_compensation=kind, **SGD,
    )  # fmt: skip
    lines = (tmp_path / "events-000000.jsonl").read_text().splitlines()
    pushes = [event for event in map(json.loads, lines) if event[0] == "push"]
    versions = [computed[pushes[0][1], 0][0]]
    rule = DelayCompensation(versions[0].size, make_backend("cpu", "float64"))
    for _, number, clock, version, *_ in pushes:
        now, (then, gradient) = versions[-1], computed[number, clock]
        np.testing.assert_allclose(then, versions[version], rtol=0, atol=1e-12)
        lag = len(versions) - 1 - version
        if kind == "dc-asgd":
            rule.correct(gradient, now, then)
        rate = 0.1 / max(1, lag) if kind == "inverse" else 0.1
        versions.append(now - rate * gradient)
    np.testing.assert_allclose(run.weights, versions[-1], rtol=0, atol=1e-12)
    assert run.summary["version_lag"]["max"] >= 2


def test_compensated_runs_learn(tmp_path: Path) -> None:
    for kind in ("inverse", "dc-asgd"):
        run = train(
            tmp_path / kind, workers=3, max_steps=60, batch_size=4, lr=1e-2, mode="async",
            lag_compensation=kind,
        )  # fmt: skip
        losses = [record["loss"] for record in run.metrics("train")]
        assert losses[-1] < losses[0] - 0.3
