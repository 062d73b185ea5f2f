"""Steps that a worker takes on its own on a GPU: nothing is waited for between them."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from emulated.device import EmulatedDevice

from psdp.backend import make_backend
from psdp.backend.gpu.backend import GpuBackend
from psdp.checkpoint import Inner
from psdp.config import Config
from psdp.data.batches import TextBatch
from psdp.job import Job
from psdp.language import Language
from psdp.modes import Pushed
from psdp.params import Array
from psdp.task import Step
from psdp.transport.messages import Train
from psdp.workers.replica import Replica
from psdp.workers.training import LocalTraining, Trained, make_trainings

SMALL: dict[str, Any] = {
    "n_layer": 1,
    "n_head": 2,
    "n_embd": 8,
    "block_size": 4,
    "batch_size": 2,
    "bias": False,
    "mode": "local",
    "local_steps": 5,
    "max_steps": 10,
    "grad_clip": 0.3,
    "lr": 1e-2,
}
VOCAB, STEPS = 11, 5
ORDER = Train(1, 0, 0, STEPS, 0, Pushed.CHANGE)


class WatchedDevice(EmulatedDevice):
    """Counts how often it is waited for."""

    waits = 0

    def download(self, device: Array, out: Array) -> None:
        self.waits += 1
        super().download(device, out)

    def synchronize(self) -> None:
        self.waits += 1


def make(
    backend: Any, optimizer: str = "adamw", poison: int | None = None, **settings: Any
) -> LocalTraining:
    """Return a worker at its first weights; gradient number ``poison`` holds Inf."""
    config = Config.from_flat(SMALL | {"optimizer": optimizer} | settings).resolved()
    job = Job(config, 2, Language(config, VOCAB))
    replica = Replica(job, backend)
    backend.to_device(job.table.initial(1, "float32"), replica.own_weights)
    rng = np.random.default_rng(0)

    def gradient(clock: int, batch: int, leaves: bool) -> None:
        x = rng.integers(VOCAB, size=(2, 4))
        replica.clear()
        batch = TextBatch(x, np.roll(x, -1, axis=1), np.ones(x.shape, bool))
        replica.model.add_gradient(batch, Step())
        if clock == poison:
            backend.to_device(np.full(1, math.inf), replica.own_gradient[7:8])

    (training,) = make_trainings(job, replica, gradient).values()
    assert isinstance(training, LocalTraining)
    return training


def train(
    backend: Any, optimizer: str = "adamw", poison: int | None = None, **settings: Any
) -> tuple[Trained, Replica]:
    """Train for a round; gradient number ``poison`` holds Inf."""
    training = make(backend, optimizer, poison, **settings)
    return training.train(ORDER, 0), training.replica


@pytest.mark.parametrize("optimizer", ["adamw", "sgd", "muon"])
def test_a_round_is_the_same_as_on_a_cpu_and_waits_at_its_end(
    kernel_folder: Path, optimizer: str
) -> None:
    device = WatchedDevice(kernel_folder)
    on_gpu, gpu = train(GpuBackend(device, "float32"), optimizer)
    on_cpu, cpu = train(make_backend("cpu", "float32", kernels="numpy"), optimizer)
    assert on_gpu.loss == pytest.approx(on_cpu.loss, rel=1e-5)
    np.testing.assert_allclose(gpu.gradient, cpu.gradient, atol=1e-5)
    assert device.waits < STEPS


@pytest.mark.parametrize("settings", [{}, {"mode": "easgd", "wire_dtype": "bf16"}], ids=str)
def test_what_a_worker_has_for_itself_goes_to_the_host_and_back(
    kernel_folder: Path, settings: dict[str, Any]
) -> None:
    def copied(training: LocalTraining) -> dict[str, Array]:
        inner = Inner()
        training.copy(inner)
        return inner.tensors()

    first, second = (
        make(GpuBackend(EmulatedDevice(kernel_folder), "float32"), **settings) for _ in range(2)
    )
    first.pulled()
    first.train(ORDER, 0)
    had = copied(first)
    assert all(type(tensor) is np.ndarray and tensor.any() for tensor in had.values())
    second.restore(Inner.from_tensors(had))
    has = copied(second)
    assert had.keys() == has.keys()
    for name, tensor in had.items():
        np.testing.assert_array_equal(has[name], tensor)


@pytest.mark.parametrize("settings", [{}, {"grad_clip": 0.0, "grad_clip_value": 0.1}], ids=str)
@pytest.mark.parametrize("poison", [1, STEPS - 1])
def test_a_gradient_that_is_not_finite_shows_in_what_is_pushed(
    kernel_folder: Path, poison: int, settings: dict[str, Any]
) -> None:
    device = WatchedDevice(kernel_folder)
    _, gpu = train(GpuBackend(device, "float32"), poison=poison, **settings)
    assert not math.isfinite(gpu.backend.sum_of_squares(gpu.own_pushed))
    trained, _ = train(make_backend("cpu", "float32"), poison=poison, **settings)
    assert math.isnan(trained.loss)
