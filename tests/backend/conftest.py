"""Every backend; those of a GPU run on an emulated device."""

from __future__ import annotations

from pathlib import Path

import pytest
from emulated.device import EmulatedDevice
from emulated.libraries import gemm

from psdp.backend import Backend, make_backend
from psdp.backend.gpu.backend import GpuBackend
from psdp.backend.gpu.libraries import NO_LIBRARIES, Libraries

BACKENDS = [
    *("numpy float32", "numpy float64", "compiled"),
    *("gpu float32", "gpu float64", "gpu bf16", "gpu float32 fused", "gpu bf16 fused"),
]


@pytest.fixture(params=BACKENDS)
def backend(request: pytest.FixtureRequest, kernel_folder: Path) -> Backend:
    kind, *detail = request.param.split()
    if kind == "gpu":
        precision = "bf16" if detail[0] == "bf16" else "float32"
        dtype = "float32" if detail[0] == "bf16" else detail[0]
        device, libraries = EmulatedDevice(kernel_folder), NO_LIBRARIES
        if detail[1:] == ["fused"]:
            libraries = Libraries(gemm=gemm(device)[1])
        return GpuBackend(device, dtype, precision, libraries)
    return make_backend("cpu", detail[0] if detail else "float32", kernels=kind)
