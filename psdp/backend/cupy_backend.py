"""The GPU backend: the same kernels through CuPy. This is the only file that imports cupy."""

from __future__ import annotations

from typing import Any

import numpy as np

from psdp.backend.arrays import Array
from psdp.backend.base import Backend
from psdp.errors import ConfigError


def open_gpu(dtype: str, local_rank: int) -> CupyBackend:
    """Return a backend on GPU ``local_rank`` modulo the number of GPUs of this host.

    Raises:
        ConfigError: CuPy, the driver or a device is missing; the text says which.
    """
    try:
        import cupy
    except ImportError as error:
        raise ConfigError(
            "--device gpu needs CuPy: pip install 'psdp[cuda12]' or 'psdp[cuda13]', whichever "
            f"your driver supports ({error})"
        ) from error
    try:
        count = cupy.cuda.runtime.getDeviceCount()
    except cupy.cuda.runtime.CUDARuntimeError as error:
        raise ConfigError(
            f"--device gpu needs an NVIDIA driver and a GPU, and CUDA found none ({error}); "
            "check nvidia-smi, or use --device cpu"
        ) from error
    if count == 0:
        raise ConfigError("--device gpu: CUDA sees no GPU; check CUDA_VISIBLE_DEVICES")
    cupy.cuda.Device(local_rank % count).use()
    return CupyBackend(cupy, dtype)


class CupyBackend(Backend):
    """CuPy arrays on the current device. A block is the whole array: launches are what costs."""

    name = "gpu"
    kernels = "cupy"
    tile = 2**62
    query_block = 2**31

    def __init__(self, cupy: Any, dtype: str) -> None:
        self.xp = cupy
        super().__init__(dtype)

    def to_device(self, host: Array, out: Any) -> None:
        out.set(np.ascontiguousarray(host, out.dtype))

    def to_host(self, device: Any, out: Array) -> None:
        device.get(out=out)

    def synchronize(self) -> None:
        self.xp.cuda.get_current_stream().synchronize()

    def row_dots(self, a: Array, b: Array, out: Array) -> None:
        self.xp.sum(a * b, axis=-1, out=out)

    def take_rows(self, table: Array, ids: Array, out: Array) -> None:
        self.xp.take(table, ids, axis=0, out=out)

    def add_rows(self, ids: Array, rows: Array, table: Array) -> None:
        # Atomic additions: the order, and so the last bit, may differ from run to run.
        self.xp.add.at(table, ids, rows)

    def dropout_mask(self, rng: np.random.Generator, p: float, out: Array) -> None:
        device_rng = self.xp.random.default_rng(int(rng.integers(2**63)))
        kept = device_rng.random(out.shape, dtype=out.dtype) >= p
        self.xp.multiply(kept, 1 / (1 - p), out=out)
