"""Where arrays live and what is done to them element by element.

A :class:`Backend` is an explicit object passed down to the layers; there is no global one.
"""

from __future__ import annotations

from psdp.backend.base import AdamStep, Backend
from psdp.backend.numpy_backend import NumpyBackend
from psdp.errors import ConfigError

try:
    from psdp.backend.native_backend import NativeBackend
except ImportError as error:
    # Installed without a C compiler; the reason is told to whoever asks for compiled kernels.
    _missing: ImportError | None = error
else:
    _missing = None

__all__ = ["AdamStep", "Backend", "NumpyBackend", "make_backend"]


def make_backend(
    device: str, dtype: str, local_rank: int = 0, *, kernels: str = "auto", threads: int = 1
) -> Backend:
    """Return the backend of ``--device``, ``--dtype`` and ``--kernels``.

    Args:
        device: "cpu" or "gpu"; GPUs are dealt out by ``local_rank``.
        dtype: of weights, gradients and activations.
        kernels: on a CPU, "compiled", "numpy", or "auto": compiled ones where there are some.
        threads: that compiled kernels use.

    Raises:
        ConfigError: the device or dtype is unknown; a GPU was asked for and CuPy, the driver or the
            device is missing; or compiled kernels were, and there are none.
    """
    if dtype not in ("float32", "float64"):
        raise ConfigError(f"--dtype expects float32 or float64, got {dtype!r}")
    match device:
        case "cpu":
            return _on_cpu(dtype, kernels, threads)
        case "gpu":
            from psdp.backend.cupy_backend import open_gpu

            return open_gpu(dtype, local_rank)
        case _:
            raise ConfigError(f"--device expects cpu or gpu, got {device!r}")


def _on_cpu(dtype: str, kernels: str, threads: int) -> Backend:
    if kernels == "compiled":
        if dtype != "float32":
            raise ConfigError(
                f"--kernels compiled works on float32, got --dtype {dtype}; use --kernels numpy"
            )
        if _missing is not None:
            raise ConfigError(
                f"--kernels compiled: psdp was installed without them ({_missing}); see that a C "
                "compiler and the Python headers are there, then install psdp again"
            ) from _missing
    if kernels == "numpy" or dtype != "float32" or _missing is not None:
        return NumpyBackend(dtype)
    return NativeBackend(threads)
