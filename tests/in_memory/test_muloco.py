"""Muon in workers and a momentum between them is MuLoCo (arXiv:2505.23725), step by step."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path

import numpy as np
import pytest
from jobs import Training, train

from psdp.params import Array, ParamSpec, ParamTable
from psdp.workers.training import Gradient
from psdp.workers.worker import Worker

pytestmark = pytest.mark.timeout(60)

WORKERS, STEPS, ROUNDS = 2, 3, 3
LR, RATIO, DECAY, OUTER_LR, OUTER_MOMENTUM = 1e-2, 0.5, 0.1, 0.7, 0.6
TOTAL = STEPS * ROUNDS


class Inner:
    """A worker's own weights and Muon, written down anew."""

    def __init__(self, table: ParamTable) -> None:
        self.table, self.steps, self.lr = table, 0, LR
        self.first, self.second = np.zeros(table.size), np.zeros(table.size)

    def step(self, weights: Array, gradient: Array) -> None:
        self.lr = LR * (1 - self.steps / TOTAL)
        self.steps += 1
        views = (self.table.views(flat) for flat in (weights, gradient, self.first, self.second))
        w, g, first, second = views
        for spec in self.table.specs:
            at = (array[spec.name] for array in (w, g, first, second))
            (self._muon if spec.matrix else self._adamw)(spec, *at)

    def _muon(self, spec: ParamSpec, w: Array, g: Array, momentum: Array, _: Array) -> None:
        momentum[...] = 0.95 * momentum + 0.05 * g
        nesterov, start = 0.95 * momentum + 0.05 * g, 0
        w *= 1 - self.lr * DECAY
        for width in spec.maps or (spec.shape[1],):
            columns = slice(start, start := start + width)
            rate = self.lr * 0.2 * max(spec.shape[0], width) ** 0.5
            w[:, columns] -= rate * orthogonal(nesterov[:, columns])

    def _adamw(self, spec: ParamSpec, w: Array, g: Array, mean: Array, square: Array) -> None:
        mean[...] = 0.5 * mean + 0.5 * g
        square[...] = 0.99 * square + 0.01 * g * g
        unbiased, size = mean / (1 - 0.5**self.steps), square / (1 - 0.99**self.steps)
        w *= 1 - RATIO * self.lr * DECAY * spec.decay
        w -= RATIO * self.lr * unbiased / (np.sqrt(size) + 1e-8)


def orthogonal(matrix: Array) -> Array:
    x = matrix / np.linalg.norm(matrix)
    for _ in range(5):
        gram = x @ x.T
        x = 3.4445 * x + (-4.7750 * gram + 2.0315 * gram @ gram) @ x
    return x


def test_local_with_muon_is_muloco(tmp_path: Path) -> None:
    seen: dict[int, list[tuple[Array, Array]]] = defaultdict(list)

    def watch(run: Training) -> None:
        for number in range(WORKERS):
            training, worker = run.training(number), run.worker(number)
            training.gradient = noting(training.gradient, worker, seen[number])

    run = train(
        tmp_path,
        workers=WORKERS,
        prepare=watch,
        mode="local",
        local_steps=STEPS,
        max_steps=TOTAL,
        optimizer="muon",
        lr=LR,
        adamw_lr_ratio=RATIO,
        weight_decay=DECAY,
        outer_lr=OUTER_LR,
        outer_momentum=OUTER_MOMENTUM,
        lr_schedule="linear",
        min_lr=0.0,
        warmup_steps=0,
        grad_clip=0.0,
    )
    table = run.job.table
    assert {spec.matrix for spec in table.specs} == {True, False}
    assert any(spec.maps for spec in table.specs)
    weights, _ = seen[0][0]
    outer, inner = np.zeros(table.size), [Inner(table) for _ in range(WORKERS)]
    for number in range(ROUNDS):
        moved = []
        for worker in range(WORKERS):
            own = weights.copy()
            for began, gradient in seen[worker][number * STEPS :][:STEPS]:
                np.testing.assert_allclose(own, began, rtol=1e-9, atol=1e-11)
                inner[worker].step(own, gradient)
            moved.append(weights - own)
        change = sum(moved) / WORKERS
        outer = OUTER_MOMENTUM * outer + change
        weights = weights - OUTER_LR * (change + OUTER_MOMENTUM * outer)
    np.testing.assert_allclose(run.weights, weights, rtol=1e-9, atol=1e-11)


def noting(compute: Gradient, worker: Worker, into: list[tuple[Array, Array]]) -> Gradient:
    """Return what computes a gradient, and notes on which weights and what it was."""

    def noted(clock: int, batch: int, leaves: bool) -> None:
        compute(clock, batch, leaves)
        replica = worker.replica
        into.append((replica.own_weights.copy(), replica.own_gradient.copy()))

    return noted


def test_a_workers_profile_tells_what_its_updates_take(tmp_path: Path) -> None:
    run = train(tmp_path, mode="local", local_steps=3, optimizer="muon", profile=True)
    cost = run.worker(0).replica.profile.costs["update"]
    assert cost.calls == 6
    assert cost.flops > 0
    assert run.leader.serving.profile.costs["update"].calls == 2
