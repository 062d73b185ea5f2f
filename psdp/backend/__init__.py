"""Where arrays live and what is done to them element by element.

A :class:`Backend` is an explicit object passed down to the layers; there is no global one.
"""

from __future__ import annotations

from psdp.backend.base import Backend
from psdp.backend.numpy_backend import NumpyBackend
from psdp.errors import ConfigError

__all__ = ["Backend", "NumpyBackend", "make_backend"]


def make_backend(device: str, dtype: str, local_rank: int = 0) -> Backend:
    """Return the backend of ``--device`` and ``--dtype``; GPUs are dealt out by local rank.

    Raises:
        ConfigError: the device or dtype is unknown, or a GPU was asked for and CuPy, the driver
            or the device is missing.
    """
    if dtype not in ("float32", "float64"):
        raise ConfigError(f"--dtype expects float32 or float64, got {dtype!r}")
    match device:
        case "cpu":
            return NumpyBackend(dtype)
        case "gpu":
            from psdp.backend.cupy_backend import open_gpu

            return open_gpu(dtype, local_rank)
        case _:
            raise ConfigError(f"--device expects cpu or gpu, got {device!r}")
