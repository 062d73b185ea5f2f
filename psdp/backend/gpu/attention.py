"""Attention on a GPU: a library's where one does a shape, and psdp's own kernels elsewhere."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from psdp.backend.arrays import BF16
from psdp.backend.gpu.cuda import Source
from psdp.backend.gpu.cuda.tiles import Tile, plain_tile, tensor_core_tile
from psdp.backend.gpu.device import Device
from psdp.backend.gpu.dropout import MOST_MASKS, GpuDropout, Mask
from psdp.backend.gpu.grids import BLOCK, ceil, warps
from psdp.backend.gpu.libraries import AttentionPlan, AttentionShape, Libraries, Unsupported
from psdp.params import Array


class _Launch(NamedTuple):
    """How psdp's own kernels attend to a shape."""

    source: Source
    tile: Tile
    grid: tuple[int, int]
    length: int
    scale: float


class GpuAttention(GpuDropout):
    """See :class:`psdp.backend.kernels.attention.AttentionKernels`."""

    def __init__(self, device: Device, dtype: str, precision: str, libraries: Libraries) -> None:
        super().__init__(device, dtype, precision)
        self.libraries = libraries
        if libraries.attention is not None:
            self._offsets = device.zeros((MOST_MASKS,), np.int64)
            device.upload(np.arange(MOST_MASKS, dtype=np.int64) << 32, self._offsets)
        self._plans: dict[AttentionShape, AttentionPlan | None] = {}

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
        how = self._own(qkv, batch, heads, mask)
        arguments = (qkv, out, logsumexp, *self._drawn(mask), how.length, heads, how.scale)
        self._run(how, "attention", *arguments)

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
        how = self._own(qkv, batch, heads, mask)
        count = len(qkv) * heads
        deltas = self.scratch(0, count)
        arguments: tuple[Any, ...] = (out, dout, deltas, how.length, heads, count)
        self.device.launch(how.source, "attention_deltas", warps(count), BLOCK, arguments)
        drawn = self._drawn(mask)
        arguments = (qkv, dout, logsumexp, deltas, dqkv, *drawn, how.length, heads, how.scale)
        self._run(how, "attention_backward_keys", *arguments)
        self._run(how, "attention_backward_queries", *arguments)

    def _own(self, qkv: Array, batch: int, heads: int, mask: Mask | None) -> _Launch:
        length, head = len(qkv) // batch, qkv.shape[1] // (3 * heads)
        tile = tensor_core_tile(head) if qkv.dtype == BF16 else None
        file = "attention" if tile is None else "attention_mma"
        if tile is None:
            tile = plain_tile(head, self.dtype.itemsize, self.device.shared_bytes)
        source = self.source(file, tile, drops=mask is not None)
        grid = (batch * heads, ceil(length, tile.rows))
        return _Launch(source, tile, grid, length, head**-0.5)

    def _run(self, how: _Launch, kernel: str, *arguments: Any) -> None:
        tile = how.tile
        self.device.launch(how.source, kernel, how.grid, tile.threads, arguments, tile.shared_bytes)

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
