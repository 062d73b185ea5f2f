"""Libraries on trial: one is trusted once it has computed what psdp's own kernels do, here and now.

So a library that computes something else than psdp was written for costs speed and no gradients.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from psdp.backend.arrays import BF16
from psdp.backend.gpu.backend import GpuBackend
from psdp.backend.gpu.device import Device
from psdp.backend.gpu.dropout import Mask
from psdp.backend.gpu.libraries import NO_LIBRARIES, AttentionShape, Libraries, say_unused
from psdp.params import Array

CLOSE = 2.0**-6
"""The largest difference, relative to the largest number: some roundings of bfloat16."""

BATCH, LENGTH, HEADS, HEAD = 16, 128, 2, 64
"""What attention is tried on."""

P = 0.25
"""How much of its weights is dropped then."""


def trusted(device: Device, dtype: str, precision: str) -> Libraries:
    """Return the libraries of a device that agree with psdp's kernels in these formats; say of the
    others why they are not used."""
    offered, found = device.libraries(), NO_LIBRARIES
    if offered == found:
        return found
    own = GpuBackend(device, dtype, precision)
    if offered.gemm is not None and dtype == "float32":
        only = Libraries(gemm=offered.gemm)
        theirs = GpuBackend(device, dtype, precision, only)
        if _passes(offered.gemm.name, lambda: _try_gemm(own, theirs)):
            found = found._replace(gemm=offered.gemm)
    if offered.attention is not None and precision == "bf16":
        only = Libraries(attention=offered.attention)
        theirs = GpuBackend(device, dtype, precision, only)
        if _passes(offered.attention.name, lambda: _try_attention(own, theirs)):
            found = found._replace(attention=offered.attention)
    return found


def _passes(name: str, trial: Callable[[], None]) -> bool:
    try:
        trial()
    except Exception as error:  # whatever it is, there are kernels that work
        say_unused(name, error)
        return False
    return True


class _Sample:
    """Random arrays that are the same on every backend of one device."""

    def __init__(self, backend: GpuBackend) -> None:
        self._backend, self._rng = backend, np.random.default_rng(0)

    def real(self, *shape: int) -> Array:
        array = self._backend.empty(*shape)
        self._backend.to_device(self._rng.standard_normal(shape), array)
        return array

    def branch(self, *shape: int) -> Array:
        return self._backend.cast(self.real(*shape), self.room(*shape))

    def room(self, *shape: int) -> Array:
        return self._backend.zeros(*shape, dtype=self._backend.compute_dtype)


def _try_gemm(own: GpuBackend, theirs: GpuBackend) -> None:
    sample = _Sample(own)
    x, weight, bias = sample.branch(64, 96), sample.branch(96, 32), sample.branch(32)
    wide_bias, stream = sample.real(32), sample.real(64, 32)
    assert theirs.libraries.gemm is not None
    theirs.libraries.gemm.multiply(x, weight, bias, sample.room(64, 32))  # or Unsupported
    results: list[list[Array]] = []
    for backend in (own, theirs):
        (y, inner, outer), sums = (sample.room(64, 32) for _ in range(3)), own.zeros(64, 32)
        own.mean([stream], [1.0], sums)
        backend.affine(x, weight, bias, y)
        backend.affine_gelu(x, weight, bias, inner, outer)
        backend.add_affine(x, weight, wide_bias, sums)
        results.append([y, inner, outer, sums])
    for name, mine, other in zip(("bias", "gelu's input", "gelu", "sum"), *results, strict=True):
        _compare(name, _wide(own, mine), _wide(own, other))


def _try_attention(own: GpuBackend, theirs: GpuBackend) -> None:
    sample, tokens, width = _Sample(own), BATCH * LENGTH, HEADS * HEAD
    qkv, dout = sample.branch(tokens, 3 * width), sample.branch(tokens, width)
    assert theirs.libraries.attention is not None
    theirs.libraries.attention.plan(AttentionShape(BATCH, HEADS, LENGTH, HEAD, P))  # or Unsupported
    results = [_attend(backend, sample, qkv, dout, None) for backend in (own, theirs)]
    for name, mine, other in zip(("attention", "its gradient"), *results, strict=True):
        _compare(name, _wide(own, mine), _wide(own, other))
    # With a mask the output is linear in the values still: <out, dout> is <values, their gradient>.
    theirs.seed(np.random.default_rng(1))
    out, dqkv = _attend(theirs, sample, qkv, dout, Mask(theirs.new_mask(0), P))
    values, gradient = (_wide(own, rows)[:, 2 * width :] for rows in (qkv, dqkv))
    masked, whole = _wide(own, out), _wide(own, results[0][0])
    _compare("dropout", (masked * _wide(own, dout)).sum(axis=0), (values * gradient).sum(axis=0))
    if np.abs(masked - whole).max() < CLOSE * np.abs(whole).max():
        raise ArithmeticError("it drops nothing")


def _attend(
    backend: GpuBackend, sample: _Sample, qkv: Array, dout: Array, mask: Mask | None
) -> tuple[Array, Array]:
    tokens, width = dout.shape
    out, dqkv = sample.room(tokens, width), sample.room(tokens, 3 * width)
    sums = backend.zeros(BATCH, HEADS, LENGTH)
    backend.attention(qkv, BATCH, HEADS, mask, out, sums)
    backend.attention_backward(qkv, BATCH, HEADS, mask, out, sums, dout, dqkv)
    return out, dqkv


def _wide(backend: GpuBackend, array: Array) -> Array:
    """Return an array on the host, in float32."""
    if array.dtype != BF16:
        return backend.on_host(array)
    wide = backend.empty(*array.shape)
    backend.mean([array], [1.0], wide)
    return backend.on_host(wide)


def _compare(name: str, mine: Array, other: Array) -> None:
    """
    Raises:
        ArithmeticError: the two are not close.
    """
    furthest, largest = float(np.abs(mine - other).max()), float(np.abs(mine).max())
    if not furthest <= CLOSE * largest:
        raise ArithmeticError(f"its {name} is off by {furthest:.2g}, of at most {largest:.2g}")
