"""Backends by name, and what is said when there is no GPU to be had."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
from emulated.device import EmulatedDevice

from psdp.backend import make_backend
from psdp.errors import ConfigError


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_cpu_backend_copies_both_ways(dtype: str) -> None:
    backend = make_backend("cpu", dtype)
    assert (backend.name, backend.dtype) == ("cpu", np.dtype(dtype))
    device, host = backend.zeros(3), np.empty(3)
    backend.to_device(np.array([1, 2, 3]), device)
    backend.to_host(device, host)
    backend.synchronize()
    assert host.tolist() == [1, 2, 3]


def test_unknown_names_are_refused() -> None:
    with pytest.raises(ConfigError, match="float32 or float64, got 'float16'"):
        make_backend("cpu", "float16")
    with pytest.raises(ConfigError, match="auto, cpu or gpu, got 'tpu'"):
        make_backend("tpu", "float32")


def test_kernels_are_chosen_by_name_and_dtype() -> None:
    assert make_backend("cpu", "float32").kernels == "compiled"
    assert make_backend("cpu", "float64").kernels == "numpy"
    assert make_backend("cpu", "float32", kernels="numpy").kernels == "numpy"
    with pytest.raises(ConfigError, match=r"works on float32 .* got --dtype float64"):
        make_backend("cpu", "float64", kernels="compiled")


def test_without_compiled_kernels_numpy_takes_over(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("psdp.backend._missing", ImportError("no module named _native"))
    monkeypatch.setattr("psdp.backend.ARE_FAST", False)
    assert make_backend("cpu", "float32").kernels == "numpy"
    with pytest.raises(ConfigError, match=r"no module named _native.*C compiler"):
        make_backend("cpu", "float32", kernels="compiled")


def test_bf16_needs_compiled_kernels_and_a_processor_that_has_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with pytest.raises(ConfigError, match=r"bf16 works on float32 .* got --dtype float64"):
        make_backend("cpu", "float64", precision="bf16")
    with pytest.raises(ConfigError, match=r"got --dtype float32 --kernels numpy"):
        make_backend("cpu", "float32", precision="bf16", kernels="numpy")
    for precision in ("bf16", "tf32"):
        with pytest.raises(ConfigError, match=f"{precision} works on float32, got --dtype float64"):
            make_backend("gpu", "float64", precision=precision)
    with pytest.raises(ConfigError, match="tf32 is for --device gpu"):
        make_backend("cpu", "float32", precision="tf32")
    monkeypatch.setattr("psdp.backend.bf16_here", lambda: False)
    with pytest.raises(ConfigError, match=r"AVX512-BF16.*use --precision float32"):
        make_backend("cpu", "float32", precision="bf16")


def test_missing_cupy_names_the_extras(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cupy", None)
    with pytest.raises(ConfigError, match=r"psdp\[cuda12\]' or 'psdp\[cuda13\]"):
        make_backend("gpu", "float32")
    for flag in ("--device", "--server-device"):
        with pytest.raises(ConfigError, match=f"^{flag} gpu needs CuPy: .*, or use {flag} cpu$"):
            make_backend("gpu", "float32", flag=flag)
    assert make_backend("auto", "float32").name == "cpu"


OLD, BROKEN = 4, 5
"""The numbers of a device without tensor cores for bfloat16, and of one that cannot be opened."""


class FakeCupy(ModuleType):
    """A cupy whose runtime sees ``count`` devices, or no driver (None)."""

    def __init__(self, count: int | None) -> None:
        super().__init__("cupy")
        error = type("CUDARuntimeError", (RuntimeError,), {})

        def get_device_count() -> int:
            if count is None:
                raise error("cudaErrorInsufficientDriver")
            return count

        runtime = SimpleNamespace(getDeviceCount=get_device_count, CUDARuntimeError=error)
        self.cuda = SimpleNamespace(runtime=runtime)


@pytest.fixture
def with_devices(
    monkeypatch: pytest.MonkeyPatch, kernel_folder: Path
) -> Callable[[int | None], list[Any]]:
    """Make CuPy see so many devices; return what is opened of them: numbers, and TF32 or not."""

    def make(count: int | None) -> list[Any]:
        opened: list[Any] = []

        def device(cupy: Any, number: int, *, tf32: bool) -> EmulatedDevice:
            if number == BROKEN:
                raise RuntimeError("cudaErrorDevicesUnavailable: all are busy")
            opened.append((number, tf32))
            emulated = EmulatedDevice(kernel_folder)
            emulated.capability = 75 if number == OLD else 90
            return emulated

        monkeypatch.setitem(sys.modules, "cupy", FakeCupy(count))
        monkeypatch.setattr("psdp.backend.gpu.cupy_device.CupyDevice", device)
        return opened

    return make


def test_missing_driver_is_said(with_devices: Callable[[int | None], list[Any]]) -> None:
    with_devices(None)
    with pytest.raises(ConfigError, match=r"driver and a GPU.*InsufficientDriver.*nvidia-smi"):
        make_backend("gpu", "float32")
    assert make_backend("auto", "float32").name == "cpu"


def test_missing_device_is_said(with_devices: Callable[[int | None], list[Any]]) -> None:
    with_devices(0)
    with pytest.raises(ConfigError, match="no GPU; check CUDA_VISIBLE_DEVICES"):
        make_backend("gpu", "float32")
    assert make_backend("auto", "float64").name == "cpu"


def test_a_device_that_cannot_be_opened_is_said(
    with_devices: Callable[[int | None], list[Any]], capsys: pytest.CaptureFixture[str]
) -> None:
    with_devices(8)
    with pytest.raises(ConfigError, match=r"cannot use GPU 5 \(cudaErrorDevicesUnavailable"):
        make_backend("gpu", "float32", BROKEN)
    assert make_backend("auto", "float32", BROKEN).name == "cpu"
    said = "psdp: --device auto takes the CPU: it cannot use GPU 5 (cudaErrorDevicesUnavailable"
    assert capsys.readouterr().err.startswith(said)


def test_bf16_needs_a_gpu_that_has_it(with_devices: Callable[[int | None], list[Any]]) -> None:
    with_devices(8)
    with pytest.raises(ConfigError, match=r"capability 8\.0 .* emulated GPU has 7\.5"):
        make_backend("gpu", "float32", OLD, precision="bf16")
    assert make_backend("gpu", "float32", OLD).name == "gpu"


def test_local_ranks_share_the_devices(with_devices: Callable[[int | None], list[Any]]) -> None:
    opened = with_devices(2)
    for local_rank in range(3):
        assert make_backend("gpu", "float32", local_rank).name == "gpu"
    assert make_backend("auto", "float32", 3, precision="tf32").kernels == "cuda tf32"
    assert opened == [(0, False), (1, False), (0, False), (1, True)]
