"""A worker's vectors: what leaves is the gradient, rounded where it is to be, on any device."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from emulated.device import EmulatedDevice

from psdp.backend import BF16, Backend, make_backend
from psdp.backend.gpu.backend import GpuBackend
from psdp.config import Config
from psdp.job import Job
from psdp.language import Language
from psdp.params import Array
from psdp.workers.replica import Replica

SMALL: dict[str, Any] = {"n_layer": 1, "n_head": 1, "n_embd": 8, "block_size": 4}
VOCAB = 11


def job(**settings: Any) -> Job:
    config = Config.from_flat(SMALL | settings).resolved()
    return Job(config, 2, Language(config, VOCAB))


def replica_of(job: Job, backend: Backend, *how: Any, **more: Any) -> Replica:
    return Replica(job, backend, *how, **more)


class CountingDevice(EmulatedDevice):
    """Notes the bytes of every vector that leaves it: at once, or beside other work."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.downloads: list[int] = []
        self.sent_off: list[int] = []

    def download(self, device: Array, out: Array) -> None:
        self.downloads.append(device.nbytes)
        super().download(device, out)

    def download_async(self, device: Array, out: Array) -> None:
        self.sent_off.append(device.nbytes)
        super().download_async(device, out)


def filled(replica: Replica) -> Array:
    """Put a gradient where the layers do; return it."""
    gradient = np.random.default_rng(2).standard_normal(replica.own_gradient.size)
    gradient = gradient.astype(np.float32)
    replica.backend.to_device(gradient, replica.own_gradient)
    return gradient


@pytest.mark.parametrize("precision", ["float32", "bf16"])
def test_a_gpu_rounds_and_half_the_bytes_are_fetched(kernel_folder: Path, precision: str) -> None:
    device = CountingDevice(kernel_folder)
    rounding = job(wire_dtype="bf16")
    replica = replica_of(rounding, GpuBackend(device, "float32", precision))
    gradient = filled(replica)
    device.downloads.clear()
    replica.fetch()
    assert device.downloads == [2 * rounding.table.size]
    assert device.launches[-1] == "round_to_bf16"
    check_rounded(replica, gradient)


def test_parts_that_leave_while_others_are_computed_are_rounded_too(kernel_folder: Path) -> None:
    device = CountingDevice(kernel_folder)
    rounding = job(wire_dtype="bf16")
    replica = replica_of(rounding, GpuBackend(device, "float32"))
    gradient, size = filled(replica), rounding.table.size
    outlet = replica.outlet()
    assert outlet is not None
    outlet(slice(33, None))
    outlet(slice(33))
    device.downloads.clear()
    replica.fetch()
    assert (device.sent_off, device.downloads) == ([2 * (size - 33), 2 * 33], [])
    check_rounded(replica, gradient)


@pytest.mark.parametrize("wire_dtype", ["float32", "bf16"])
@pytest.mark.parametrize("overlap", [False, True])
def test_what_leaves_a_gpu_for_another_one_never_meets_the_host(
    kernel_folder: Path, overlap: bool, wire_dtype: str
) -> None:
    device = CountingDevice(kernel_folder)
    pushing = job(wire_dtype=wire_dtype, overlap=overlap)
    rounds, backend = wire_dtype == "bf16", GpuBackend(device, "float32")

    def zeros(size: int, dtype: Any) -> Array:
        return backend.zeros(size, dtype=dtype)

    replica = replica_of(pushing, backend, zeros, on_device=True)
    assert (replica.own_weights is replica.weights) == (not overlap)
    assert (replica.own_gradient is replica.gradient) == (not overlap and not rounds)
    gradient = filled(replica)
    device.downloads.clear()
    outlet = replica.outlet()
    assert outlet is None, "it need not leave part by part"
    replica.fetch()
    backend.to_device(gradient, replica.weights)
    replica.load()
    assert (device.downloads, device.sent_off) == ([], [])
    assert np.array_equal(backend.on_host(replica.own_weights), gradient)
    assert np.array_equal(replica.weights_on_host(), gradient)
    if rounds:
        check_rounded(replica, gradient)
    else:
        assert np.array_equal(backend.on_host(replica.gradient), gradient)


@pytest.mark.parametrize("overlap", [False, True])
@pytest.mark.parametrize("kernels", ["numpy", "compiled"])
def test_a_cpu_rounds_straight_into_what_leaves(kernels: str, overlap: bool) -> None:
    backend = make_backend("cpu", "float32", kernels=kernels)
    replica = replica_of(job(wire_dtype="bf16", overlap=overlap), backend)
    gradient = filled(replica)
    replica.fetch()
    assert replica.own_pushed is replica.gradient
    check_rounded(replica, gradient)


def check_rounded(replica: Replica, gradient: Array) -> None:
    expected = torch.from_numpy(gradient).bfloat16()
    assert replica.gradient.dtype == BF16
    assert np.array_equal(replica.gradient, expected.view(torch.int16).numpy().view(np.uint16))
    assert np.array_equal(replica.backend.on_host(replica.own_gradient), gradient)
    squares = float((expected.double() ** 2).sum())
    assert replica.sum_of_squares() == pytest.approx(squares, rel=1e-6)


@pytest.mark.parametrize(
    "settings", [{}, {"overlap": True}, {"dtype": "float64"}, {"mode": "allreduce"}], ids=str
)
def test_without_it_the_gradient_leaves_as_it_is(settings: dict[str, Any]) -> None:
    plain = job(**settings)
    backend: Backend = make_backend("cpu", plain.config.run.dtype)
    replica = replica_of(plain, backend)
    assert replica.own_pushed is replica.own_gradient
    assert (replica.own_gradient is replica.gradient) == ("overlap" not in settings)
    replica.own_gradient[...] = 0.1
    replica.fetch()
    assert np.array_equal(replica.gradient, np.full_like(replica.own_gradient, 0.1))
