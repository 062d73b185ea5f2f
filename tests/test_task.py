"""A problem of one's own is a table, a batch and a gradient: in NumPy, or as a PyTorch module."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
import torch

from psdp.backend import Backend, make_backend
from psdp.config import Config
from psdp.errors import DataError
from psdp.job import Job
from psdp.params import Array, Init, ParamSpec, ParamTable
from psdp.task import Measured, Model, NumpyTask, Share, Step, Task
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


def test_rows_of_all_workers_are_those_of_a_lone_one_with_larger_batches() -> None:
    for number in range(20):
        alone = Share(7, 0, 1).rows(number, 12, of=100)
        together = [Share(7, worker, 3).rows(number, 4, of=100) for worker in range(3)]
        assert np.concatenate(together).tolist() == alone.tolist()


def test_an_epoch_goes_through_rows_once_and_the_next_in_another_order() -> None:
    epochs = [
        np.concatenate([Share(7, 0, 1).rows(epoch * 8 + n, 12, of=100) for n in range(8)])
        for epoch in range(2)
    ]
    for rows in epochs:
        assert len(set(rows.tolist())) == 96
    assert epochs[0].tolist() != epochs[1].tolist()
    with pytest.raises(DataError, match="10 rows are too few for 3 worker"):
        Share(7, 0, 3).rows(0, 4, of=10)


class Squares(NumpyTask):
    """The gradient of the batch's number times the weights' halved square."""

    table = ParamTable([ParamSpec("w", (3,), Init("ones"))])
    units_per_batch = 1

    def batch(self, share: Share, number: int) -> Any:
        return number

    def add_gradient(self, weights: Any, gradient: Any, batch: Any) -> Any:
        gradient["w"] += batch * weights["w"]
        return batch * float(weights["w"] @ weights["w"]) / 2


def test_parts_of_a_gradient_are_scaled_and_added_to_what_is_there() -> None:
    task, gradient = Squares(), np.full(3, 10.0)
    model = task.model(make_backend("cpu", "float64"), np.ones(3), gradient)
    done: list[slice] = []
    model.add_gradient(4, Step(scale=0.5))
    model.add_gradient(2, Step(scale=0.5, ready=done.append))
    assert gradient.tolist() == [13.0] * 3
    assert model.loss.tolist() == [0.5 * (4 + 2) * 1.5]
    assert done == [slice(None)]


def test_what_a_numpy_task_is_given_cannot_be_taken_for_something_else() -> None:
    class Wrong(Squares):
        def add_gradient(self, weights: Any, gradient: Any, batch: Any) -> Any:
            batch(weights, gradient)

    gradient = np.zeros(3)
    model = Wrong().model(make_backend("cpu", "float64"), np.ones(3), gradient)

    def written(weights: Any, gradient: Any) -> None:
        weights["w"][0] = 2

    def replaced(weights: Any, gradient: Any) -> None:
        gradient["w"] = weights["w"]

    def added(weights: Any, gradient: Any) -> None:
        gradient["v"] = weights["w"]

    for batch, error, text in (
        (written, ValueError, "read-only"), (replaced, TypeError, r"\['w'\] is a view"),
        (added, TypeError, r"\['v'\] is a view"), (lambda *_: None, TypeError, "returned None"),
    ):  # fmt: skip
        with pytest.raises(error, match=text):
            model.add_gradient(batch, Step())


def test_a_run_is_gone_on_with_by_a_task_that_says_the_same() -> None:
    own, told = Squares(), Squares().identity()
    assert own.difference(json.loads(json.dumps(told))) is None
    own.about = {"data": [1, 2]}
    assert own.difference(told) == "with data None, this one has [1, 2]"
    assert own.difference(json.loads(json.dumps(own.identity()))) is None
    assert own.difference({"task": {"name": "Cubes", "about": {}}}) == (
        "of Cubes, this one is of Squares"
    )
    assert own.difference({"corpus_sha256": "c0ffee"}) == (
        "of a model of language, this one is of Squares"
    )
