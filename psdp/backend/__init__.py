"""Where arrays live and what is done to them element by element.

A :class:`Backend` is an explicit object passed down to the layers; there is no global one.
"""

from __future__ import annotations

import os
import sys

from psdp.backend.arrays import BF16
from psdp.backend.base import Backend
from psdp.backend.cpu.numpy import NumpyBackend
from psdp.backend.kernels.optimizer import AdamStep, Scalar
from psdp.errors import ConfigError, NoDevice, UnusableDevice
from psdp.fields import AUTO

if "OMP_WAIT_POLICY" not in os.environ:
    # Threads of compiled kernels wait a few microseconds for the next one, then they sleep. The
    # default, milliseconds, gains nothing and is slower than one thread where a core is shared.
    os.environ.setdefault("GOMP_SPINCOUNT", "2000")

try:
    from psdp.backend.cpu.compiled import ARE_FAST, CompiledBackend, bf16_here
except (ImportError, AttributeError) as error:
    # Installed without a C compiler, or compiled for another version of psdp; the reason is told to
    # whoever asks for compiled kernels.
    _missing: Exception | None = error
    ARE_FAST = False
else:
    _missing = None

BF16_CAPABILITY = 80
"""Of the first GPUs whose tensor cores multiply bfloat16, times ten."""

__all__ = ["BF16", "AdamStep", "Backend", "NumpyBackend", "Scalar", "make_backend"]


def make_backend(
    device: str,
    dtype: str,
    local_rank: int = 0,
    *,
    kernels: str = AUTO,
    precision: str = "float32",
    threads: int = 1,
    flag: str = "--device",
) -> Backend:
    """Return the backend of ``--device``, ``--dtype``, ``--kernels`` and ``--precision``.

    Args:
        device: "cpu", "gpu", or "auto": a GPU where there is one; they are dealt out by
            ``local_rank``.
        dtype: of weights, gradients and activations.
        kernels: on a CPU, "compiled", "numpy", or "auto": compiled ones where there are
            some that are faster. On a GPU, "auto" leaves to libraries what they do faster, where
            they are installed; all others are psdp's kernels alone.
        precision: of products: "float32" (that of ``dtype``), "tf32" (on a GPU) or "bf16".
        threads: that compiled kernels of this process use from now on.
        flag: that asks for the device, for errors to name.

    Raises:
        ConfigError: the device or dtype is unknown; a GPU was asked for and CuPy, the driver or the
            device is missing; or compiled kernels or bfloat16 were, and this installation or this
            processor has none.
    """
    if dtype not in ("float32", "float64"):
        raise ConfigError(f"--dtype expects float32 or float64, got {dtype!r}")
    match device:
        case "cpu" if precision == "tf32":
            raise ConfigError("--precision tf32 is for --device gpu; drop one of the two")
        case "cpu" if kernels == "compiled" or precision == "bf16":
            _check_compiled(dtype, kernels, precision)
            return CompiledBackend(threads, bf16=precision == "bf16")
        case "cpu" if kernels == "numpy" or dtype != "float32" or not ARE_FAST:
            return NumpyBackend(dtype)
        case "cpu":
            return CompiledBackend(threads)
        case "gpu":
            try:
                return _on_gpu(dtype, local_rank, precision, kernels)
            except NoDevice as error:
                raise NoDevice(f"{flag} gpu {error}, or use {flag} cpu") from error
        case _ if device == AUTO:
            try:
                return _on_gpu(dtype, local_rank, precision, kernels)
            except NoDevice as error:
                if isinstance(error, UnusableDevice):
                    text = f"psdp: {flag} {AUTO} takes the CPU: it {error}"
                    print(text, file=sys.stderr, flush=True)
                return make_backend(
                    "cpu", dtype, kernels=kernels, precision=precision, threads=threads
                )
        case _:
            raise ConfigError(f"{flag} expects {AUTO}, cpu or gpu, got {device!r}")


def _on_gpu(dtype: str, local_rank: int, precision: str, kernels: str) -> Backend:
    from psdp.backend.gpu import cupy_device
    from psdp.backend.gpu.backend import GpuBackend
    from psdp.backend.gpu.libraries import NO_LIBRARIES
    from psdp.backend.gpu.trial import trusted

    if dtype != "float32" and precision != "float32":
        raise ConfigError(
            f"--precision {precision} works on float32, got --dtype {dtype}; drop one of the two"
        )
    device = cupy_device.open_device(local_rank, tf32=precision == "tf32")
    if precision == "bf16" and device.capability < BF16_CAPABILITY:
        raise ConfigError(
            f"--precision bf16 needs a GPU of compute capability {BF16_CAPABILITY / 10} (A100, RTX "
            f"30) or later, and {device.name} has {device.capability / 10}; use --precision float32"
        )
    libraries = trusted(device, dtype, precision) if kernels == AUTO else NO_LIBRARIES
    return GpuBackend(device, dtype, precision, libraries)


def _check_compiled(dtype: str, kernels: str, precision: str) -> None:
    wanted = "--precision bf16" if precision == "bf16" else "--kernels compiled"
    if dtype != "float32" or kernels == "numpy":
        raise ConfigError(
            f"{wanted} works on float32 with compiled kernels, got --dtype {dtype} --kernels "
            f"{kernels}"
        )
    if _missing is not None:
        raise ConfigError(
            f"{wanted}: psdp was installed without compiled kernels, or with those of another "
            f"version ({_missing}); see that a C compiler and the Python headers are there, then "
            "install psdp again"
        ) from _missing
    if precision == "bf16" and not bf16_here():
        raise ConfigError(
            "--precision bf16 needs a processor with AVX512-BF16 (AMD Zen 4, Intel Cooper Lake and "
            "Sapphire Rapids, and later ones), and this one has not; use --precision float32"
        )
