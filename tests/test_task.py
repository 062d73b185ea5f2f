"""A problem of one's own is a table, a batch and a gradient: in NumPy, or as a PyTorch module."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from psdp.backend import Backend, make_backend
from psdp.config import Config
from psdp.job import Job
from psdp.params import Array, Init, ParamSpec, ParamTable
from psdp.task import Measured, Model, Share, Step, Task
from psdp.workers.replica import Replica

FEATURES = 5


class LogisticModel:
    """Shapes: w (F,); batches x (B, F), y (B,)."""

    def __init__(self, weights: Array, gradient: Array | None) -> None:
        self.w, self.gradient, self.loss = weights, gradient, np.zeros(1)

    def add_gradient(self, batch: Any, step: Step) -> None:
        x, y = batch
        p = 1 / (1 + np.exp(-x @ self.w))
        self.loss -= step.scale * np.log(np.where(y, p, 1 - p)).mean()
        assert self.gradient is not None
        self.gradient += step.scale * x.T @ (p - y) / len(y)

    def evaluate(self, batch: Any) -> Measured:
        x, y = batch
        p = 1 / (1 + np.exp(-x @ self.w))
        losses = -np.log(np.where(y, p, 1 - p))
        return Measured(len(y), float(losses.sum()), int(((p > 0.5) == y).sum()))


class TorchModel:
    """The same as a module whose parameter is a view of the flat vector."""

    def __init__(self, weights: Array, gradient: Array | None) -> None:
        self.module = torch.nn.Linear(FEATURES, 1, bias=False, dtype=torch.float64)
        self.module.weight.data = torch.from_numpy(weights).view(1, FEATURES)
        if gradient is not None:
            self.module.weight.grad = torch.from_numpy(gradient).view(1, FEATURES)
        self.loss = np.zeros(1)

    def add_gradient(self, batch: Any, step: Step) -> None:
        loss = step.scale * self._losses(batch).mean()
        loss.backward()
        self.loss += loss.item()

    def evaluate(self, batch: Any) -> Measured:
        return Measured(len(batch[1]), self._losses(batch).sum().item())

    def _losses(self, batch: Any) -> torch.Tensor:
        x, y = map(torch.from_numpy, batch)
        return torch.nn.functional.binary_cross_entropy_with_logits(
            self.module(x)[:, 0], y.double(), reduction="none"
        )


class Classes(Task):
    """Points on two sides of a plane."""

    table = ParamTable([ParamSpec("w", (FEATURES,), Init("zeros"), decay=False)])
    units_per_batch = 16

    def __init__(self, model: type[Any]) -> None:
        self.kind = model

    def batch(self, share: Share, number: int) -> Any:
        rng = np.random.default_rng([share.seed, share.worker, number])
        x = rng.standard_normal((16, FEATURES))
        return x, x @ np.arange(1.0, 1 + FEATURES) > 0

    def model(self, backend: Backend, weights: Array, gradient: Array | None) -> Model:
        model: Model = self.kind(weights, gradient)
        return model


def trained(model: type[Any]) -> tuple[list[float], Array, Replica]:
    """Return the losses of some steps of gradient descent, and where they ended."""
    config = Config.from_flat({"dtype": "float64"}).resolved()
    task = Classes(model)
    replica = Replica(Job(config, 2, task), make_backend("cpu", "float64"))
    losses = []
    for number in range(50):
        replica.clear()
        for half in (0, 1):
            batch = task.batch(Share(1, 0, 1), 2 * number + half)
            replica.model.add_gradient(batch, Step(scale=0.5))
        replica.fetch()
        losses.append(replica.take_loss())
        replica.weights[...] -= replica.gradient
    return losses, replica.weights.copy(), replica


def test_a_task_of_ones_own_is_trained() -> None:
    losses, weights, replica = trained(LogisticModel)
    assert losses[0] == pytest.approx(np.log(2))
    assert losses[-1] < 0.3
    assert (weights > 0).all()
    total = replica.model.evaluate(Classes(LogisticModel).batch(Share(2, 0, 1), 0))
    assert total.correct > 12
    assert total.loss / total.units < 0.3


def test_a_module_whose_parameters_are_views_does_the_same() -> None:
    losses, weights, _ = trained(LogisticModel)
    torch_losses, torch_weights, replica = trained(TorchModel)
    np.testing.assert_allclose(torch_losses, losses, rtol=1e-10)
    np.testing.assert_allclose(torch_weights, weights, rtol=1e-10)
    assert replica.model.evaluate(Classes(TorchModel).batch(Share(2, 0, 1), 0)).units == 16


def test_what_a_task_does_not_say_has_a_default() -> None:
    task = Classes(LogisticModel)
    assert (task.unit, task.measures) == ("sample", ())
    assert list(task.validation(0, 1)) == []
    assert task.validation_units == task.validation_split_units == 0
    backend = make_backend("cpu", "float32")
    assert task.training_memory(backend).total() == 2 * 4 * FEATURES


def test_what_batches_add_up_to_is_added() -> None:
    assert Measured(2, 3.0, 1) + Measured(4, 0.5) == Measured(6, 3.5, 1)
