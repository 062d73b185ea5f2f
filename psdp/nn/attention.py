"""Causal self-attention over several heads."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from psdp.backend import Backend
from psdp.config import ModelConfig
from psdp.nn.arena import Arena, Parameters
from psdp.nn.dropout import Dropout
from psdp.nn.linear import Linear
from psdp.nn.positions import Rotary
from psdp.params import Array, Init, ParamSpec


def split_heads(qkv: Array, batch: int, heads: int) -> tuple[Array, Array, Array]:
    """View rows of [queries | keys | values] (N, 3C) as three arrays (B, H, T, D); no copy."""
    parts = qkv.reshape(batch, -1, 3, heads, qkv.shape[1] // (3 * heads)).transpose(2, 0, 3, 1, 4)
    return parts[0], parts[1], parts[2]


def merge_heads(rows: Array, batch: int, heads: int) -> Array:
    """View rows (N, C) as (B, H, T, D); no copy."""
    return rows.reshape(batch, -1, heads, rows.shape[1] // heads).transpose(0, 2, 1, 3)


def future_mask(size: int, backend: Backend) -> Array:
    """Return (size, size): 0 where a key is not after its query, -inf where it is."""
    mask = backend.empty(size, size)
    backend.to_device(np.triu(np.full((size, size), -np.inf), k=1), mask)
    return mask


class Tile(NamedTuple):
    """Some queries of some sequences, the keys that they see, and where their weights are kept."""

    sequences: slice
    queries: slice
    keys: slice
    place: slice
    shape: tuple[int, int, int, int]


def causal_tiles(batch: int, heads: int, length: int, step: int, tile: int) -> list[Tile]:
    """Cut the causal half of ``batch * heads`` squares into tiles of about ``tile`` elements.

    A tile has at most ``step`` queries. Kept weights lie tile after tile, without gaps.
    """
    tiles, end = [], 0
    for start in range(0, length, step):
        queries = slice(start, min(start + step, length))
        square = heads * (queries.stop - start) * queries.stop
        count = max(1, tile // square)
        for first in range(0, batch, count):
            sequences = slice(first, min(first + count, batch))
            shape = (sequences.stop - first, heads, queries.stop - start, queries.stop)
            place = slice(end, end + shape[0] * square)
            tiles.append(Tile(sequences, queries, slice(queries.stop), place, shape))
            end = place.stop
    return tiles


class Attention:
    """y = softmax(Q K^T / sqrt(D), past only) V, merged and projected (arXiv:1706.03762).

    The (T, T) squares are never made whole: a tile of queries meets only the keys that it may
    see, for as many sequences as fit in the cache. Weights are kept as exponentials that are not
    yet divided by their row sum; the outputs, which are fewer, are divided instead.

    Shapes: x, y (N, C); q, k, v, context (B, H, T, D); the weights of a tile (sequences, H,
    queries, keys); sums (B, H, T, 1).
    """

    @staticmethod
    def specs(name: str, config: ModelConfig, qkv: Init, out: Init) -> list[ParamSpec]:
        width = config.n_embd
        return [
            *Linear.specs(f"{name}.qkv", width, 3 * width, qkv, config.bias),
            *Linear.specs(f"{name}.out", width, width, out, config.bias),
        ]

    def __init__(
        self, config: ModelConfig, parameters: Parameters, arena: Arena, rotary: Rotary | None
    ) -> None:
        width, heads, length = config.n_embd, config.n_head, config.block_size
        rows, batch = arena.rows, arena.rows // length
        self.backend, self.rotary, self.heads = arena.backend, rotary, heads
        self.scale = math.sqrt(heads / width)
        self.qkv = Linear(parameters.under("qkv"), arena)
        self.out = Linear(parameters.under("out"), arena)
        self.step = min(self.backend.query_block, length)
        self.mask = future_mask(self.step, self.backend)
        kept = self._tiles(batch, length)[-1].place.stop
        self.rows_qkv = arena.kept("qkv", rows, 3 * width)
        self.weights = arena.kept("attention weights", kept)
        self.inverse_sums = arena.kept("attention sums", rows * heads)
        self.context = arena.kept("context", rows, width)
        self.dropout = Dropout(config.dropout, kept, arena)
        if arena.training:
            self.rows_dqkv = arena.scratch("wide", rows, 3 * width)
            self.dcontext = arena.scratch("dcontext", rows, width)

    def forward(self, x: Array, batch: int, y: Array, rng: np.random.Generator | None) -> None:
        """Write the attention's output to ``y``; keep what backward needs."""
        matmul, count = self.backend.xp.matmul, x.shape[0]
        qkv, rows = self.rows_qkv[:count], self.context[:count]
        self.qkv.forward(x, qkv)
        q, k, v = split_heads(qkv, batch, self.heads)
        context, sums = merge_heads(rows, batch, self.heads), self._per_query(batch, count)
        if self.rotary is not None:
            self.rotary.forward(q)
            self.rotary.forward(k)
        q *= self.scale
        tiles = self._tiles(batch, q.shape[2])
        self.dropout.draw(tiles[-1].place.stop, rng)
        for some, queries, keys, place, shape in tiles:
            weights = self.weights[place].reshape(shape)
            matmul(q[some, :, queries], k[some, :, keys].swapaxes(2, 3), out=weights)
            corner = weights[..., queries]
            corner += self.mask[: shape[2], : shape[2]]
            self.backend.softmax_parts(weights, sums[some, :, queries])
            o = context[some, :, queries]
            matmul(self._dropped(weights, place), v[some, :, keys], out=o)
            o *= sums[some, :, queries]
        self.out.forward(rows, y)

    def backward(self, x: Array, batch: int, dy: Array, dx: Array) -> None:
        """Add the gradients of both layers to their views; write dL/dx to ``dx``."""
        matmul, count = self.backend.xp.matmul, x.shape[0]
        qkv, rows = self.rows_qkv[:count], self.context[:count]
        dqkv, drows = self.rows_dqkv[:count], self.dcontext[:count]
        self.out.backward(rows, dy, drows)
        q, k, v = split_heads(qkv, batch, self.heads)
        dq, dk, dv = split_heads(dqkv, batch, self.heads)
        context, sums = merge_heads(rows, batch, self.heads), self._per_query(batch, count)
        dcontext = merge_heads(drows, batch, self.heads)
        # Backwards, so that the first tile of a sequence writes all of dk and dv; the others add.
        for some, queries, keys, place, shape in reversed(self._tiles(batch, q.shape[2])):
            weights = self.weights[place].reshape(shape)
            dscores = self.backend.scratch(0, *shape)
            do = dcontext[some, :, queries]
            do *= sums[some, :, queries]
            matmul(do, v[some, :, keys].swapaxes(2, 3), out=dscores)
            if self.dropout.mask is not None:
                dscores *= self.dropout.mask[place].reshape(shape)
            # With p the weights and dp their gradient, softmax needs sum_k p dp of every query,
            # which is the product of its output and the output's gradient: D terms, not T.
            deltas = self.backend.scratch(1, *shape[:3])
            self.backend.row_dots(do, context[some, :, queries], out=deltas)
            dscores -= deltas[..., None]
            dscores *= weights
            matmul(dscores, k[some, :, keys], out=dq[some, :, queries])
            dropped = self._dropped(weights, place)
            if queries.stop == q.shape[2]:
                matmul(dscores.swapaxes(2, 3), q[some, :, queries], out=dk[some])
                matmul(dropped.swapaxes(2, 3), do, out=dv[some])
            else:
                part = self.backend.scratch(2, *shape[:2], shape[3], q.shape[3])
                matmul(dscores.swapaxes(2, 3), q[some, :, queries], out=part)
                dk[some, :, keys] += part
                matmul(dropped.swapaxes(2, 3), do, out=part)
                dv[some, :, keys] += part
        dq *= self.scale
        if self.rotary is not None:
            self.rotary.backward(dq)
            self.rotary.backward(dk)
        self.qkv.backward(x, dqkv, dx)

    def _tiles(self, batch: int, length: int) -> list[Tile]:
        return causal_tiles(batch, self.heads, length, self.step, self.backend.tile)

    def _per_query(self, batch: int, count: int) -> Array:
        """View the row sums of ``count`` tokens as (B, H, T, 1)."""
        return self.inverse_sums[: count * self.heads].reshape(batch, self.heads, -1, 1)

    def _dropped(self, weights: Array, place: slice) -> Array:
        """Return the weights after dropout, in scratch memory; without dropout, themselves."""
        mask = self.dropout.mask
        if mask is None:
            return weights
        dropped = self.backend.scratch(1, *weights.shape)
        self.backend.xp.multiply(weights, mask[place].reshape(weights.shape), out=dropped)
        return dropped
