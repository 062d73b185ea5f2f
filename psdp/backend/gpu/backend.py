"""The GPU backend: every kernel of a training step as the launch of a CUDA kernel or a GEMM.

It asks a :class:`Device` for arrays, launches and GEMMs, and never waits for it, so a step is
queued ahead of the GPU and may be captured whole. Activations between the linear layers of a branch
may be bfloat16; parameters, sums and the residual stream are not.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from psdp.backend import squares
from psdp.backend.arrays import BF16
from psdp.backend.base import Backend
from psdp.backend.gpu.composed import GpuComposed
from psdp.backend.gpu.cuda.tiles import MOST_THREADS
from psdp.backend.gpu.device import Device
from psdp.backend.gpu.grids import BLOCK, Columns, block_for, ceil, warps
from psdp.backend.gpu.libraries import NO_LIBRARIES, Libraries, Unsupported
from psdp.backend.kernels.optimizer import AdamStep, Scalar
from psdp.params import Array

SORTED_CHUNK = 64
"""Tokens that a block adds to an embedding's gradient."""


class GpuBackend(GpuComposed, Backend):
    """CUDA kernels in one pair of formats.

    Args:
        device: does it.
        dtype: "float32" or "float64".
        precision: "float32" (that of ``dtype``; "tf32" is the device's business) or "bf16".
        libraries: to use where they do something; without them all kernels are psdp's.
    """

    fuses_gelu = True

    def __init__(
        self,
        device: Device,
        dtype: str,
        precision: str = "float32",
        libraries: Libraries = NO_LIBRARIES,
    ) -> None:
        super().__init__(device, dtype, precision, libraries)
        self.kernels = "cuda" if precision == "float32" else f"cuda {precision}"
        if names := [library.name for library in libraries if library is not None]:
            self.kernels += f" ({', '.join(names)})"
        self._squares = device.zeros((0,), np.float64)
        self._coefficient = device.zeros((1,), np.float64)

    # Embedding ------------------------------------------------------------------------------

    def embed(
        self,
        table: Array,
        ids: Array,
        scale: float,
        positions: Array | None,
        length: int,
        out: Array,
    ) -> None:
        width = out.shape[1]
        arguments = (table, ids, scale, positions, out, length, width)
        self._launch("rows", "embed", (len(ids),), block_for(width), *arguments)

    def scatter_add(self, ids: Array, rows: Array, scale: float, table: Array) -> None:
        count, width = rows.shape
        chunks = ceil(count, SORTED_CHUNK)
        edges = self.scratch(0, chunks, 2, width)
        block = block_for(width)
        columns, sizes = ceil(width, block), (count, width, SORTED_CHUNK)
        arguments = (ids, rows, scale, table, edges, *sizes)
        self._launch("rows", "scatter_add", (chunks, columns), block, *arguments)
        self._launch("rows", "add_edges", (columns,), block, ids, table, edges, *sizes)

    # Linear layers and sums -------------------------------------------------------------------

    def matmul(self, a: Array, b: Array, out: Array) -> None:
        self.device.gemm(a, b, out, add=False)

    def add_matmul(self, a: Array, b: Array, out: Array) -> None:
        self.device.gemm(a, b, out, add=True)

    def affine(self, x: Array, weight: Array, bias: Array | None, y: Array) -> None:
        if bias is None or not self._fused(x, weight, bias, y):
            super().affine(x, weight, bias, y)

    def affine_gelu(
        self, x: Array, weight: Array, bias: Array | None, inner: Array, y: Array
    ) -> None:
        if self._fused(x, weight, bias, y, inner=inner):
            return
        self.matmul(x, weight, inner)
        rows, width = y.shape
        arguments = (bias, inner, y, width)
        self._launch("elementwise", "bias_gelu", (rows,), block_for(width), *arguments)

    def add_affine(self, x: Array, weight: Array, bias: Array | None, y: Array) -> None:
        if bias is None or not self._fused(x, weight, bias, y, add=True):
            super().add_affine(x, weight, bias, y)

    def _fused(self, *arrays: Array | None, **how: Any) -> bool:
        """Have a library do a GEMM and its epilogue; say whether one did."""
        if self.libraries.gemm is None:
            return False
        try:
            self.libraries.gemm.multiply(*arrays, **how)  # type: ignore[arg-type]
        except Unsupported:
            return False
        return True

    def add_bias(self, bias: Array, y: Array) -> None:
        rows, width = y.shape
        kernel = f"add_bias_{self._kind(y)}"
        self._launch("elementwise", kernel, (rows,), block_for(width), bias, y, width)

    def add_column_sums(self, x: Array, out: Array) -> None:
        kernel = "column_parts" if self._kind(x) == "act" else "column_parts_real"
        how = Columns(*x.shape)
        parts = self.scratch(0, how.chunks, how.width)
        arguments = (x, parts, how.rows, how.width, how.chunk)
        self._launch("sums", kernel, how.grid, how.block, *arguments)
        self._add_parts(how, parts, out)

    def _add_parts(self, how: Columns, parts: Array, out: Array) -> None:
        arguments = (parts, out, how.chunks, how.width)
        self._launch("sums", "add_parts", how.grid[:1], how.block, *arguments)

    def add_total(self, x: Array, scale: float, out: Array) -> None:
        self._launch("sums", "add_total", (1,), MOST_THREADS, x, out, x.size, scale)

    def block_squares(self, vector: Array, block: int) -> Array:
        sums = self.on_host(self._block_squares(vector, block))
        if vector.dtype == np.float64 and not np.isfinite(sums).all():
            # NaN, Inf, or squares beyond float64, which are told apart at leisure.
            return super().block_squares(self.on_host(vector), block)
        return sums

    def _block_squares(self, vector: Array, block: int) -> Array:
        """Return the sums of the squares of each ``block`` elements of a vector, float64."""
        count = ceil(vector.size, block)
        if self._squares.size < count:
            self._squares = self.device.zeros((count,), np.float64)
        if count:
            kernel = "block_squares_bf16" if vector.dtype == BF16 else "block_squares"
            arguments = (vector, self._squares, vector.size, block)
            self._launch("sums", kernel, (count,), BLOCK, *arguments)
        return self._squares[:count]

    def clip_coefficient(self, vector: Array, limit: float) -> Scalar:
        if vector.dtype == np.float64:  # whose squares may be beyond float64
            return super().clip_coefficient(vector, limit)
        sums = self._block_squares(vector, squares.BLOCK)
        arguments = (sums, self._coefficient, sums.size, float(limit))
        self._launch("sums", "clip_coefficient", (1,), MOST_THREADS, *arguments)
        return self._coefficient

    # Activations ----------------------------------------------------------------------------

    def gelu(self, x: Array, y: Array) -> None:
        self._each("elementwise", "gelu", x.size, x, y, x.size)

    def gelu_backward(self, x: Array, dy: Array) -> None:
        self._each("elementwise", "gelu_backward", x.size, x, dy, x.size)

    def relu(self, x: Array, y: Array) -> None:
        self._each("elementwise", "relu", x.size, x, y, x.size)

    def relu_backward(self, x: Array, dy: Array) -> None:
        self._each("elementwise", "relu_backward", x.size, x, dy, x.size)

    # Layer norm -----------------------------------------------------------------------------

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
        arguments = (x, gain, bias, normal, rstd, y, *x.shape, eps)
        self._launch("layernorm", "layer_norm", warps(x.shape[0]), BLOCK, *arguments)

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
        how = Columns(*dy.shape)
        parts = self.scratch(0, 2, how.chunks, how.width)
        sizes = (how.rows, how.width, how.chunk, int(dbias is not None))
        self._launch("sums", "column_dot_parts", how.grid, how.block, dy, normal, parts, *sizes)
        self._add_parts(how, parts[0], dgain)
        if dbias is not None:
            self._add_parts(how, parts[1], dbias)
        arguments = (dy, gain, normal, rstd, dx, *dy.shape)
        self._launch("layernorm", "layer_norm_backward", warps(dy.shape[0]), BLOCK, *arguments)

    # Loss -----------------------------------------------------------------------------------

    def cross_entropy(
        self,
        logits: Array,
        targets: Array,
        scale: float,
        losses: Array,
        smoothing: float = 0.0,
    ) -> None:
        xp, (rows, width) = self.xp, logits.shape
        if smoothing:
            even, gradient = self.scratch(2, rows), self.scratch(3, rows, width)
            self.even_cross_entropy(logits, scale * smoothing, even, gradient)
        arguments = (logits, targets, scale * (1 - smoothing), losses, width)
        self._launch("loss", "cross_entropy", (rows,), block_for(width), *arguments)
        if smoothing:
            self.add_wide(gradient, logits)
            xp.multiply(losses, 1 - smoothing, out=losses)
            xp.multiply(even, smoothing, out=even)
            xp.add(losses, even, out=losses)

    def argmax(self, logits: Array, best: Array) -> None:
        rows, width = logits.shape
        self._launch("loss", "argmax", (rows,), block_for(width), logits, best, width)

    # Optimizer ------------------------------------------------------------------------------

    def mean(self, vectors: list[Array], shares: list[float], out: Array) -> None:
        assert all(vector is not out for vector in vectors[1:]), "it is written before it is read"
        kernel = "add_share_bf16" if vectors[0].dtype == BF16 else "add_share"
        for index, (vector, share) in enumerate(zip(vectors, shares, strict=True)):
            self._each("adam", kernel, out.size, vector, share, out, out.size, int(index == 0))

    def round_bf16(self, x: Array, out: Array) -> None:
        self._each("elementwise", "round_to_bf16", x.size, x, out, x.size)

    def adam(self, w: Array, g: Array, mean: Array, mean_sq: Array, step: AdamStep) -> None:
        known = isinstance(step.scale, int | float)
        scale = (None, step.scale) if known else (step.scale, 1.0)
        scalars = (step.beta1, step.beta2, step.step_size, step.eps, step.shrink)
        arguments = (w, g, mean, mean_sq, *scale, *map(float, scalars), w.size)
        self._each("adam", "adam", w.size, *arguments)
