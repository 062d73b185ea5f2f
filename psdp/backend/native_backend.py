"""The compiled backend: NumPy arrays, with the kernels of native/ where chains of NumPy calls would
read and write memory again and again. float32 only; NumPy's versions are the reference.
"""

from __future__ import annotations

import psdp.backend._native as native
from psdp.backend.arrays import Array
from psdp.backend.base import AdamStep
from psdp.backend.blas import find_sgemm
from psdp.backend.numpy_backend import NumpyBackend

sgemm = find_sgemm()


class NativeBackend(NumpyBackend):
    """Kernels in C, and BLAS products that add to their result."""

    kernels = "compiled"

    def __init__(self, threads: int = 1) -> None:
        super().__init__("float32")
        # Few queries skip most of the masked half; the compiled products do not mind their size.
        self.query_block = 24
        native.set_threads(threads)
        self._adds = sgemm is not None
        if sgemm is not None:
            native.set_sgemm(sgemm)

    def add_product(self, a: Array, b: Array, out: Array) -> None:
        if not self._adds:
            super().add_product(a, b, out)
            return
        a_transposed, b_transposed = not a.flags.c_contiguous, not b.flags.c_contiguous
        native.add_product(
            a.T if a_transposed else a,
            b.T if b_transposed else b,
            out,
            a.shape[0],
            b.shape[1],
            a.shape[1],
            a_transposed,
            b_transposed,
        )

    def affine(self, x: Array, weight: Array, bias: Array | None, y: Array) -> None:
        if not self._adds:
            super().affine(x, weight, bias, y)
            return
        # BLAS would clear y and then add to it: the bias may as well stand there already.
        y[...] = 0 if bias is None else bias
        self.add_product(x, weight, y)

    def add_bias(self, bias: Array, y: Array) -> None:
        native.add_bias(y, bias, *y.shape)

    def add_column_sums(self, x: Array, out: Array) -> None:
        native.add_column_sums(x, out, *x.shape)

    def gelu(self, x: Array, y: Array) -> None:
        native.gelu(x, y, x.size)

    def gelu_backward(self, x: Array, dy: Array) -> None:
        native.gelu_backward(x, dy, x.size)

    def layer_norm(
        self, x: Array, gain: Array, bias: Array | None, normal: Array, rstd: Array, y: Array
    ) -> None:
        native.layer_norm(x, gain, bias, normal, rstd, y, *x.shape)

    def layer_norm_backward(
        self, dy: Array, gain: Array, normal: Array, rstd: Array, dx: Array, dgain: Array
    ) -> None:
        native.layer_norm_backward(dy, gain, normal, rstd, dx, dgain, *dy.shape)

    def cross_entropy(self, logits: Array, targets: Array, scale: float, losses: Array) -> None:
        native.cross_entropy(logits, targets, scale, losses, *logits.shape)

    def attention(
        self, qkv: Array, batch: int, heads: int, mask: Array | None, out: Array, log_sums: Array
    ) -> None:
        native.attention(qkv, mask, out, log_sums, batch, heads, len(qkv), self.query_block)

    def attention_backward(
        self,
        qkv: Array,
        batch: int,
        heads: int,
        mask: Array | None,
        out: Array,
        log_sums: Array,
        dout: Array,
        dqkv: Array,
    ) -> None:
        native.attention_backward(
            qkv, mask, out, log_sums, dout, dqkv, batch, heads, len(qkv), self.query_block
        )

    def adam(
        self, w: Array, g: Array, mean: Array, mean_sq: Array, scratch: Array, step: AdamStep
    ) -> None:
        native.adam(
            w,
            g,
            mean,
            mean_sq,
            step.beta1,
            1.0 - step.beta1,
            step.beta2,
            1.0 - step.beta2,
            step.step_size,
            step.eps,
            step.shrink,
        )
