"""The compiled backend: NumPy arrays, with the kernels of native/ where chains of NumPy calls would
read and write memory again and again. float32 only; NumPy's versions are the reference.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import psdp.backend.cpu._native as native
from psdp.backend.arrays import BF16, Item
from psdp.backend.cpu.blas import BLAS, find_sgemm
from psdp.backend.cpu.numpy import NumpyBackend
from psdp.backend.kernels.optimizer import AdamStep
from psdp.params import Array

SGEMM = find_sgemm()
_BLAS_LIMIT = threading.Lock()
"""Held by who has limited the threads of BLAS, which are the whole process's."""
ARE_FAST = native.are_fast()
"""Whether the kernels were compiled for this processor, and not for the oldest of its kind."""

SUPPORT = native.product_support()
"""What this processor can run of native/product.c: 0 nothing, 1 float32, 2 bfloat16 too."""


def bf16_here() -> bool:
    """Say whether this processor multiplies bfloat16."""
    return SUPPORT >= 2


class CompiledBackend(NumpyBackend):
    """Kernels in C. Products are its own with AVX-512, and BLAS's elsewhere."""

    def __init__(self, threads: int = 1, *, bf16: bool = False) -> None:
        super().__init__("float32")
        self.kernels = "compiled bf16" if bf16 else "compiled"
        self._bf16 = bf16
        # Few queries skip most of the masked half; the compiled products do not mind their size.
        self.query_block = 24
        self.lanes = threads
        self._pool = ThreadPoolExecutor(threads, "psdp-lane")
        native.set_threads(threads)
        if SGEMM is not None:
            native.set_sgemm(SGEMM)

    def side_by_side(self, work: Callable[[int, Item], None], items: Sequence[Item]) -> None:
        left = iter(items)

        def do_some(lane: int) -> None:
            native.set_alone(True)
            try:
                for item in left:
                    work(lane, item)
            finally:
                native.set_alone(False)

        with _BLAS_LIMIT, BLAS.limit(limits=1):
            lanes = range(1, min(self.lanes, len(items)))
            others = [self._pool.submit(do_some, lane) for lane in lanes]
            do_some(0)
            for other in others:
                other.result()

    def matmul(self, a: Array, b: Array, out: Array) -> None:
        if SUPPORT:
            self._product(a, b, None, out, add=False)
        else:
            super().matmul(a, b, out)

    def symmetric_matmul(self, a: Array, b: Array, out: Array) -> None:
        if SUPPORT:
            self._product(a, b, None, out, add=False, symmetric=True)
        else:
            super().symmetric_matmul(a, b, out)

    def affine(self, x: Array, weight: Array, bias: Array | None, y: Array) -> None:
        if SUPPORT:
            self._product(x, weight, bias, y, add=False)
        elif SGEMM is not None:
            # BLAS would clear y and then add to it: the bias may as well stand there already.
            y[...] = 0 if bias is None else bias
            self.add_matmul(x, weight, y)
        else:
            super().affine(x, weight, bias, y)

    def add_matmul(self, a: Array, b: Array, out: Array) -> None:
        if SUPPORT:
            self._product(a, b, None, out, add=True)
        elif SGEMM is not None:
            (m, k), n = a.shape, b.shape[1]
            assert b.shape[0] == k, (a.shape, b.shape)
            a, b, transposed = _stored(a, b)
            native.add_product(a, b, out, m, n, k, transposed)
        else:
            super().add_matmul(a, b, out)

    def _product(
        self,
        a: Array,
        b: Array,
        bias: Array | None,
        out: Array,
        *,
        add: bool,
        symmetric: bool = False,
    ) -> None:
        (m, k), n = a.shape, b.shape[1]
        assert b.shape[0] == k, (a.shape, b.shape)
        a, b, transposed = _stored(a, b)
        native.product(a, b, bias, out, m, n, k, transposed + 4 * symmetric, add, self._bf16)

    def add_bias(self, bias: Array, y: Array) -> None:
        native.add_bias(y, bias, *y.shape)

    def add_column_sums(self, x: Array, out: Array) -> None:
        native.add_column_sums(x, out, *x.shape)

    def gelu(self, x: Array, y: Array) -> None:
        native.gelu(x, y)

    def gelu_backward(self, x: Array, dy: Array) -> None:
        native.gelu_backward(x, dy)

    def gelu_erf(self, x: Array, y: Array) -> None:
        native.gelu_erf(x, y)

    def gelu_erf_backward(self, x: Array, dy: Array) -> None:
        native.gelu_erf_backward(x, dy)

    def relu2(self, x: Array, y: Array) -> None:
        native.relu2(x, y)

    def relu2_backward(self, x: Array, dy: Array) -> None:
        native.relu2_backward(x, dy)

    def swiglu(self, x: Array, y: Array) -> None:
        native.swiglu(x, y, *y.shape)

    def swiglu_backward(self, x: Array, dy: Array) -> None:
        native.swiglu_backward(x, dy, *dy.shape)

    def geglu(self, x: Array, y: Array) -> None:
        native.geglu(x, y, *y.shape)

    def geglu_backward(self, x: Array, dy: Array) -> None:
        native.geglu_backward(x, dy, *dy.shape)

    def layer_norm(
        self,
        x: Array,
        gain: Array,
        bias: Array | None,
        eps: float,
        normal: Array,
        rstd: Array,
        y: Array,
    ) -> None:
        native.layer_norm(x, gain, bias, eps, normal, rstd, y, *x.shape)

    def layer_norm_backward(
        self,
        dy: Array,
        gain: Array,
        normal: Array,
        rstd: Array,
        dx: Array,
        dgain: Array,
        dbias: Array | None,
    ) -> None:
        native.layer_norm_backward(dy, gain, normal, rstd, dx, dgain, dbias, *dy.shape)

    def rms_norm(
        self, x: Array, gain: Array, eps: float, normal: Array, rstd: Array, y: Array
    ) -> None:
        native.rms_norm(x, gain, eps, normal, rstd, y, *x.shape)

    def rms_norm_backward(
        self, dy: Array, gain: Array, normal: Array, rstd: Array, dx: Array, dgain: Array
    ) -> None:
        native.rms_norm_backward(dy, gain, normal, rstd, dx, dgain, *dy.shape)

    def cross_entropy(
        self,
        logits: Array,
        targets: Array,
        scale: float,
        losses: Array,
        smoothing: float = 0.0,
    ) -> None:
        native.cross_entropy(logits, targets, scale, smoothing, losses, *logits.shape)

    def attention(
        self, qkv: Array, batch: int, heads: int, mask: Any, out: Array, logsumexp: Array
    ) -> None:
        native.attention(qkv, mask, out, logsumexp, batch, heads, len(qkv), self.query_block)

    def attention_backward(
        self,
        qkv: Array,
        batch: int,
        heads: int,
        mask: Any,
        out: Array,
        logsumexp: Array,
        dout: Array,
        dqkv: Array,
    ) -> None:
        native.attention_backward(
            qkv, mask, out, logsumexp, dout, dqkv, batch, heads, len(qkv), self.query_block
        )

    def rotate(self, qkv: Array, batch: int, heads: int, cos: Array, sin: Array, sign: int) -> None:
        native.rotate(qkv, cos, sin, len(qkv), len(cos), heads, cos.shape[1], float(sign))

    def repeat_heads(self, packed: Array, heads: int, kv_heads: int, qkv: Array) -> None:
        size = qkv.shape[1] // (3 * heads)
        native.repeat_heads(packed, qkv, len(qkv), heads, kv_heads, size)

    def sum_heads(self, dqkv: Array, heads: int, kv_heads: int, dpacked: Array) -> None:
        size = dqkv.shape[1] // (3 * heads)
        native.sum_heads(dqkv, dpacked, len(dqkv), heads, kv_heads, size)

    def mean(self, vectors: list[Array], shares: list[float], out: Array) -> None:
        native.mean(out, vectors, shares, vectors[0].dtype == BF16)

    def round_bf16(self, x: Array, out: Array) -> None:
        native.round_bf16(x, out)

    def adam(self, w: Array, g: Array, mean: Array, mean_sq: Array, step: AdamStep) -> None:
        assert isinstance(step.scale, float), "only a device has it elsewhere"
        native.adam(
            w,
            g,
            mean,
            mean_sq,
            step.beta1,
            1.0 - step.beta1,
            step.beta2,
            1.0 - step.beta2,
            step.scale,
            step.step_size,
            step.eps,
            step.shrink,
        )


def _stored(a: Array, b: Array) -> tuple[Array, Array, int]:
    """Return two operands as they lie in memory, and which of them are transposed: 1 the first,
    2 the second, 3 both."""
    transposed = (not a.flags.c_contiguous) + 2 * (not b.flags.c_contiguous)
    return (a.T if transposed & 1 else a), (b.T if transposed & 2 else b), transposed
