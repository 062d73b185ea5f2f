"""Backends by name, and what is said when there is no GPU to be had."""

from __future__ import annotations

import sys
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest

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
    with pytest.raises(ConfigError, match="cpu or gpu, got 'tpu'"):
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
    with pytest.raises(ConfigError, match="for --device cpu"):
        make_backend("gpu", "float32", precision="bf16")
    monkeypatch.setattr("psdp.backend.bf16_here", lambda: False)
    with pytest.raises(ConfigError, match=r"AVX512-BF16.*use --precision float32"):
        make_backend("cpu", "float32", precision="bf16")


def test_missing_cupy_names_the_extras(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cupy", None)
    with pytest.raises(ConfigError, match=r"psdp\[cuda12\]' or 'psdp\[cuda13\]"):
        make_backend("gpu", "float32")


class FakeCupy(ModuleType):
    """A cupy whose runtime sees ``count`` devices, or no driver (None)."""

    def __init__(self, count: int | None) -> None:
        super().__init__("cupy")
        error = type("CUDARuntimeError", (RuntimeError,), {})

        def get_device_count() -> int:
            if count is None:
                raise error("cudaErrorInsufficientDriver")
            return count

        self.used: list[int] = []
        self.empty = np.empty
        self.cuda = SimpleNamespace(
            runtime=SimpleNamespace(getDeviceCount=get_device_count, CUDARuntimeError=error),
            Device=lambda index: SimpleNamespace(use=lambda: self.used.append(index)),
        )


def test_missing_driver_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cupy", FakeCupy(None))
    with pytest.raises(ConfigError, match=r"driver and a GPU.*InsufficientDriver.*nvidia-smi"):
        make_backend("gpu", "float32")


def test_missing_device_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cupy", FakeCupy(0))
    with pytest.raises(ConfigError, match="no GPU; check CUDA_VISIBLE_DEVICES"):
        make_backend("gpu", "float32")


def test_local_ranks_share_the_devices(monkeypatch: pytest.MonkeyPatch) -> None:
    cupy = FakeCupy(2)
    monkeypatch.setitem(sys.modules, "cupy", cupy)
    for local_rank in range(3):
        assert make_backend("gpu", "float32", local_rank).name == "gpu"
    assert cupy.used == [0, 1, 0]
