"""Gradients that are computed while the last one travels: one exchange older, and no later."""

from __future__ import annotations

import itertools
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from jobs import Training, before_gradient, train

from psdp.params import Array
from psdp.transport.messages import Gradient
from psdp.workers.computing import IDLE_S

pytestmark = pytest.mark.timeout(90)

SGD: dict[str, Any] = {
    "optimizer": "sgd", "lr": 0.1, "weight_decay": 0.0, "grad_clip": 0.0,
    "lr_schedule": "constant", "warmup_steps": 0,
}  # fmt: skip


@pytest.mark.parametrize("servers", [1, 2])
@pytest.mark.parametrize("transport", ["auto", "messages"])
def test_each_gradient_of_sync_is_of_the_version_before(
    tmp_path: Path, servers: int, transport: str
) -> None:
    """w[0] gives the first two, then w[t] = w[t-1] - lr mean(gradients of w[t-2])."""
    computed: dict[tuple[int, int], tuple[Array, Array]] = {}

    def watch(run: Training) -> None:
        for number in range(run.workers):
            worker = run.worker(number)
            compute = run.training(number).gradient

            def watched(
                clock: int,
                batch: int,
                leaves: bool,
                number: int = number,
                worker: Any = worker,
                compute: Any = compute,
            ) -> float:
                before = worker.replica.own_weights.copy()
                loss: float = compute(clock, batch, leaves)
                np.testing.assert_array_equal(worker.replica.own_weights, before)
                computed[number, clock] = before, worker.replica.own_gradient.copy()
                return loss

            run.training(number).gradient = watched

    run = train(
        tmp_path, workers=2, servers=servers, max_steps=6, overlap=True, transport=transport,
        eval_every=2, prepare=watch, **SGD,
    )  # fmt: skip
    assert len(computed) == 12, "none is computed that is not pushed"
    weights = [computed[0, 0][0]]
    for clock in range(6):
        for number in (0, 1):
            then = weights[max(0, clock - 1)]
            np.testing.assert_allclose(computed[number, clock][0], then, rtol=0, atol=1e-12)
        mean = (computed[0, clock][1] + computed[1, clock][1]) / 2
        weights.append(weights[-1] - 0.1 * mean)
    np.testing.assert_allclose(run.weights, weights[-1], rtol=0, atol=1e-12)
    assert run.summary["version_lag"]["histogram"] == {"0": 2, "1": 10}


def test_the_next_is_begun_before_the_server_has_seen_the_last(tmp_path: Path) -> None:
    """The server does not take a gradient until the one after it is being computed."""
    begun = [threading.Event() for _ in range(6)]

    def prepare(run: Training) -> None:
        counter = iter(range(6))
        before_gradient(run.worker(0), lambda _count: begun[next(counter)].set())
        leader = run.leader
        on_message = leader.on_message

        def late(peer: int, message: Any) -> None:
            if isinstance(message, Gradient) and message.work.clock < 5:
                after = message.work.clock + 1
                assert begun[after].wait(10), f"{after} is not begun"
            on_message(peer, message)

        leader.on_message = late  # type: ignore[method-assign]

    run = train(tmp_path, max_steps=6, overlap=True, prepare=prepare)
    assert run.summary["version"] == 6


def test_what_travels_moves_on_while_a_gpu_is_at_it(tmp_path: Path) -> None:
    moved: list[float] = []

    def prepare(run: Training) -> None:
        worker, move_on = run.worker(0), run.worker(0).exchange.move_on
        looks = itertools.cycle([False, False, True])
        worker.replica.backend.is_idle = lambda: next(looks)  # type: ignore[method-assign]

        def watched(timeout_s: float = 0.0) -> None:
            moved.append(timeout_s)
            move_on(timeout_s)

        worker.exchange.move_on = watched  # type: ignore[method-assign]

    train(tmp_path, max_steps=6, overlap=True, prepare=prepare)
    assert moved.count(IDLE_S) == 2 * 6


@pytest.mark.parametrize("mode", ["async", "ssp"])
def test_exactly_the_budget_is_spent_and_no_bound_broken(tmp_path: Path, mode: str) -> None:
    settings: dict[str, Any] = {"mode": mode, "lr": 1e-2, "eval_every": 4, "dropout": 0.1}
    if mode == "ssp":
        settings["staleness"] = 1

    def prepare(run: Training) -> None:
        before_gradient(run.worker(2), lambda _count: time.sleep(3e-3))

    run = train(tmp_path, workers=3, max_steps=20, overlap=True, prepare=prepare, **settings)
    assert run.summary["tokens"] == 20 * 3 * 2 * 8
    assert sum(run.metrics("train")[-1]["clocks"].values()) == 60
    assert run.summary["version_lag"]["max"] >= 2
    if mode == "ssp":
        assert run.summary["max_clock_gap"] <= 1
    losses = [record["loss"] for record in run.metrics("train")]
    assert np.mean(losses[-5:]) < np.mean(losses[:5]) - 0.1
