"""The GPU backend: every kernel of a training step as a launch of a CUDA kernel or a product.

It asks a :class:`Device` for memory, launches and products, and never waits for it, so a step is
queued ahead of the GPU and may be captured whole. Activations between the linear layers of a branch
may be bfloat16; parameters, sums and the residual stream are not.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from psdp.backend.arrays import BF16, Array
from psdp.backend.base import LAYER_NORM_EPS, AdamStep, Backend, Scalar
from psdp.backend.gpu.cuda import Source
from psdp.backend.gpu.device import Device
from psdp.backend.gpu.grids import BLOCK, MOST_BLOCKS, Columns, Tiles, block_for, ceil, warps
from psdp.backend.gpu.libraries import (
    NO_LIBRARIES,
    AttentionPlan,
    AttentionShape,
    Libraries,
    Unsupported,
)
from psdp.backend.squares import sum_of_squares

SORTED_CHUNK = 64
"""Tokens that a block adds to an embedding's gradient."""

MOST_MASKS = 2**14
"""Dropout masks of the models of a backend."""


class Mask(NamedTuple):
    """A dropout mask, which kernels draw again wherever they need it: the stream of its layer."""

    stream: int
    p: float


class GpuBackend(Backend):
    """CUDA kernels in one pair of formats.

    Args:
        device: does it.
        dtype: "float32" or "float64".
        precision: "float32" (that of ``dtype``; "tf32" is the device's business) or "bf16".
        libraries: to use where they do something; without them all kernels are psdp's.
    """

    name = "gpu"
    fuses_gelu = True
    tile = 2**27
    query_block = 2**31

    def __init__(
        self,
        device: Device,
        dtype: str,
        precision: str = "float32",
        libraries: Libraries = NO_LIBRARIES,
    ) -> None:
        self.device = device
        self.xp = device.xp
        self.libraries = libraries
        self.kernels = "cuda" if precision == "float32" else f"cuda {precision}"
        if names := [library.name for library in libraries if library is not None]:
            self.kernels += f" ({', '.join(names)})"
        self.precision = precision
        self._half = precision == "bf16"
        self._real = dtype
        super().__init__(dtype)
        if self._half:
            self.compute_dtype = BF16
        self._seed = device.zeros((2,), np.uint32)
        self._streams = 0
        self._squares = device.zeros((MOST_BLOCKS,), np.float64)
        self._square_sum = device.zeros((1,), np.float64)
        self._factor = device.zeros((1,), np.float64)
        if libraries.attention is not None:
            self._offsets = device.zeros((MOST_MASKS,), np.int64)
            device.upload(np.arange(MOST_MASKS, dtype=np.int64) << 32, self._offsets)
        self._plans: dict[AttentionShape, AttentionPlan | None] = {}
        self._graphs: dict[Hashable, Callable[[], None] | None] = {}
        self._outgrown: list[Array] = []

    # Arrays ---------------------------------------------------------------------------------

    def empty(self, *shape: int, dtype: Any = None) -> Array:
        return self.device.empty(shape, self.dtype if dtype is None else dtype)

    def zeros(self, *shape: int, dtype: Any = None) -> Array:
        return self.device.zeros(shape, self.dtype if dtype is None else dtype)

    def scratch(self, index: int, *shape: int) -> Array:
        before = self._scratch.get(index)
        memory = super().scratch(index, *shape)
        if before is not None and self._scratch[index] is not before:
            self._outgrown.append(before)  # a step that was captured goes on using it
        return memory

    def copy(self, source: Array, out: Array) -> None:
        self.device.copy(source, out)

    def to_device(self, host: Array, out: Array) -> None:
        self.device.upload(np.ascontiguousarray(host, out.dtype), out)

    def pin(self, host: Array) -> bool:
        return self.device.pin(host)

    def to_host_async(self, device: Array, out: Array) -> None:
        self.device.download_async(device, out)

    def to_host(self, device: Array, out: Array) -> None:
        self.device.download(device, out)

    def on_host(self, vector: Array) -> Array:
        host: Array = np.empty(vector.shape, vector.dtype)
        self.device.download(vector, host)
        return host

    def synchronize(self) -> None:
        self.device.synchronize()

    def is_idle(self) -> bool:
        return self.device.is_idle()

    def clear(self, out: Array) -> None:
        self.device.clear(out)

    def run_captured(self, key: Hashable, step: Callable[[], None]) -> None:
        """The first time is eager, which allocates all scratch buffers; the second is captured,
        and replayed like all that follow."""
        if key not in self._graphs:
            self._graphs[key] = None
            step()
            return
        replay = self._graphs[key]
        if replay is None:
            replay = self._graphs[key] = self.device.capture(step)
        replay()

    # Rows named by ids ----------------------------------------------------------------------

    def new_ids(self, count: int) -> Array:
        return self.zeros(count, 2, dtype=np.int32)

    def load_ids(self, host: Array, out: Array, *, ordered: bool = False) -> None:
        pairs = np.zeros((host.size, 2), np.int32)
        pairs[:, 0] = host
        if ordered:
            pairs[:, 1] = np.argsort(host, kind="stable")
        self.device.upload(pairs, out)

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

    # Products and sums ----------------------------------------------------------------------

    def matmul(self, a: Array, b: Array, out: Array) -> None:
        self.device.product(a, b, out, add=False)

    def add_product(self, a: Array, b: Array, out: Array) -> None:
        self.device.product(a, b, out, add=True)

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
        """Have a library do a product and what follows it; say whether one did."""
        if self.libraries.products is None:
            return False
        try:
            self.libraries.products.product(*arrays, **how)  # type: ignore[arg-type]
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
        self._launch("sums", "add_total", (1,), 1024, x, out, x.size, scale)

    def sum_of_squares(self, vector: Array) -> float:
        arguments = (self._squares, self._square_sum, self._square_parts(vector))
        self._launch("sums", "total_of_parts", (1,), 1024, *arguments)
        total = float(self.on_host(self._square_sum)[0])
        if math.isfinite(total) or vector.dtype == BF16:
            return total
        # NaN, Inf, or squares beyond float64, which are told apart at leisure.
        return sum_of_squares(self.on_host(vector))

    def _square_parts(self, vector: Array) -> int:
        """Write parts of the sum of the squares of a vector; return how many."""
        blocks = min(MOST_BLOCKS, ceil(vector.size, BLOCK))
        kernel = "square_parts_bf16" if vector.dtype == BF16 else "square_parts"
        self._launch("sums", kernel, (blocks,), BLOCK, vector, self._squares, vector.size)
        return blocks

    def clip_coefficient(self, vector: Array, limit: float) -> Scalar:
        if vector.dtype == np.float64:  # whose squares may be beyond float64
            return super().clip_coefficient(vector, limit)
        arguments = (self._squares, self._factor, self._square_parts(vector), float(limit))
        self._launch("sums", "clip_coefficient", (1,), 1024, *arguments)
        return self._factor

    def new_cast_weights(self, weights: Array) -> Array:
        return self.zeros(weights.size, dtype=self.compute_dtype) if self._half else weights

    def cast(self, x: Array, out: Array) -> Array:
        if self._kind(x) == "act":
            return x
        self._each("elementwise", "round_to_act", x.size, x, out, x.size)
        return out

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
        self, x: Array, gain: Array, bias: Array | None, normal: Array, rstd: Array, y: Array
    ) -> None:
        arguments = (x, gain, bias, normal, rstd, y, *x.shape, LAYER_NORM_EPS)
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

    # Softmax --------------------------------------------------------------------------------

    def cross_entropy(self, logits: Array, targets: Array, scale: float, losses: Array) -> None:
        rows, width = logits.shape
        arguments = (logits, targets, scale, losses, width)
        self._launch("loss", "cross_entropy", (rows,), block_for(width), *arguments)

    def argmax(self, logits: Array, best: Array) -> None:
        rows, width = logits.shape
        self._launch("loss", "argmax", (rows,), block_for(width), logits, best, width)

    # Attention ------------------------------------------------------------------------------

    def attention(
        self,
        qkv: Array,
        batch: int,
        heads: int,
        mask: Any,
        out: Array,
        logsumexp: Array,
    ) -> None:
        plan = self._plan(qkv, batch, heads, mask)
        if plan is not None:
            plan.forward(qkv, out, logsumexp, *self._drawn_by(plan, mask))
            return
        how = self._tiles_of(qkv, batch, heads, mask)
        arguments = (qkv, out, logsumexp, *self._drawn(mask), how.length, heads, how.scale)
        how.launch("attention", *arguments)

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
        plan = self._plan(qkv, batch, heads, mask)
        if plan is not None:
            plan.backward(qkv, out, logsumexp, dout, dqkv, *self._drawn_by(plan, mask))
            return
        how = self._tiles_of(qkv, batch, heads, mask)
        count = len(qkv) * heads
        deltas = self.scratch(0, count)
        arguments: tuple[Any, ...] = (out, dout, deltas, how.length, heads, count)
        self.device.launch(how.source, "attention_deltas", warps(count), BLOCK, arguments)
        drawn = self._drawn(mask)
        arguments = (qkv, dout, logsumexp, deltas, dqkv, *drawn, how.length, heads, how.scale)
        how.launch("attention_backward_keys", *arguments)
        how.launch("attention_backward_queries", *arguments)

    def _tiles_of(self, qkv: Array, batch: int, heads: int, mask: Mask | None) -> Tiles:
        source = partial(self.source, drops=mask is not None)
        return Tiles(self.device, source, qkv, batch, heads)

    def _plan(self, qkv: Array, batch: int, heads: int, mask: Mask | None) -> AttentionPlan | None:
        """Return how a library attends to a shape, or None where psdp does."""
        if self.libraries.attention is None or qkv.dtype != BF16:
            return None
        length, head = len(qkv) // batch, qkv.shape[1] // (3 * heads)
        shape = AttentionShape(batch, heads, length, head, 0.0 if mask is None else mask.p)
        if shape not in self._plans:
            try:
                self._plans[shape] = self.libraries.attention.plan(shape)
            except Unsupported:
                self._plans[shape] = None
        return self._plans[shape]

    def _drawn_by(self, plan: AttentionPlan, mask: Mask | None) -> tuple[Array, Array, Array]:
        """Return the seed and the offset of a library's mask, and its workspace."""
        workspace = self.scratch(0, ceil(plan.workspace_bytes, self.dtype.itemsize))
        stream = 0 if mask is None else mask.stream
        return self._seed.view(np.int64), self._offsets[stream : stream + 1], workspace

    def rotate(self, qkv: Array, batch: int, heads: int, cos: Array, sin: Array, sign: int) -> None:
        rows, head = qkv.shape[0], qkv.shape[1] // (3 * heads)
        size = rows * heads * (head // 2)
        arguments = (qkv, cos, sin, rows // batch, heads, head, float(sign), size)
        self._each("elementwise", "rotate", size, *arguments)

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

    # Dropout --------------------------------------------------------------------------------

    def seed(self, rng: np.random.Generator) -> None:
        self.device.upload(rng.integers(2**32, size=2, dtype=np.uint32), self._seed)

    def new_mask(self, size: int) -> int:
        self._streams += 1
        assert self._streams < MOST_MASKS
        return self._streams

    def draw_mask(self, rng: np.random.Generator, p: float, room: int, size: int) -> Mask:
        return Mask(room, p)

    def drop(self, x: Array, mask: Mask, out: Array) -> None:
        assert self._kind(x) == "real" or not self._half
        kernel = "drop_to_act" if self._kind(out) == "act" else "drop_real"
        self._each("elementwise", kernel, x.size, x, *self._drawn(mask), out, x.size)

    def add_dropped(self, x: Array, mask: Mask, out: Array) -> None:
        self._each("elementwise", "add_dropped", x.size, x, *self._drawn(mask), out, x.size)

    def _drawn(self, mask: Mask | None) -> tuple[Array, int, float]:
        return (self._seed, 0, 0.0) if mask is None else (self._seed, mask.stream, mask.p)

    # Launches -------------------------------------------------------------------------------

    def source(self, file: str, head: int = 0, tile: int = 0, *, drops: bool = False) -> Source:
        """Return a file of kernels in this backend's formats."""
        act = "bf16" if self._half else self._real
        return Source(f"{file}.cu", self._real, act, head, tile, drops)

    def _kind(self, array: Array) -> str:
        """Return how kernels tell a format: "act", of branches, or "real". Where both are one, all
        is "act" but what the kernel's name says."""
        return "act" if array.dtype == self.compute_dtype else "real"

    def _launch(
        self, file: str, kernel: str, grid: tuple[int, ...], block: int, *arguments: Any
    ) -> None:
        self.device.launch(self.source(file), kernel, grid, block, arguments)

    def _each(self, file: str, kernel: str, size: int, *arguments: Any) -> None:
        """Run a kernel whose threads go through so many elements."""
        blocks = max(1, min(MOST_BLOCKS, ceil(size, BLOCK)))
        self._launch(file, kernel, (blocks,), BLOCK, *arguments)
