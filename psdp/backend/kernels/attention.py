"""Causal attention, and the rotary positions of its queries and keys.

The (T, T) squares are never made whole, and nothing of that size is kept: a tile of queries meets
only the keys that it may see, for as many sequences as fit in the cache, and the backward pass
makes the weights again from the scores and one number a query, log-sum-exp (Dao et al. 2022,
arXiv:2205.14135).

Shapes: qkv (N, 3C); q, k, v (B, H, T, D); the weights of a tile (sequences, H, queries, keys).
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, NamedTuple

from psdp.backend.arrays import Arrays
from psdp.backend.costs import costs, moves
from psdp.params import Array


def split_heads(qkv: Array, batch: int, heads: int) -> tuple[Array, Array, Array]:
    """View rows of [queries | keys | values] (N, 3C) as three arrays (B, H, T, D); no copy."""
    parts = qkv.reshape(batch, -1, 3, heads, qkv.shape[1] // (3 * heads)).transpose(2, 0, 3, 1, 4)
    return parts[0], parts[1], parts[2]


def merge_heads(rows: Array, batch: int, heads: int) -> Array:
    """View rows (N, C) as (B, H, T, D); no copy."""
    return rows.reshape(batch, -1, heads, rows.shape[1] // heads).transpose(0, 2, 1, 3)


def _in_groups(rows: Array, heads: int, kv_heads: int, size: int) -> tuple[Array, Array, Array]:
    """View rows of [queries | keys | values] as three arrays: (N, H, 1, D), and twice (N, K, G, D)
    with G heads of keys and values in the place of each; no copy."""
    width = heads * size
    rest = (rows.shape[1] - width) // 2
    group = rest // (kv_heads * size)
    queries = rows[:, :width].reshape(-1, heads, 1, size)
    keys = rows[:, width : width + rest].reshape(-1, kv_heads, group, size)
    return queries, keys, rows[:, width + rest :].reshape(-1, kv_heads, group, size)


class Block(NamedTuple):
    """Some queries of every sequence, the keys that they see, and where their dropout mask lies."""

    queries: slice
    keys: slice
    span: slice


def causal_blocks(pairs: int, length: int, step: int) -> list[Block]:
    """Cut the causal half of ``pairs`` (length, length) squares into blocks of ``step`` queries.

    A dropout mask lies block after block, each (pairs, queries, keys), without gaps.
    """
    blocks, end = [], 0
    for start in range(0, length, step):
        stop = min(start + step, length)
        span = slice(end, end + pairs * (stop - start) * stop)
        blocks.append(Block(slice(start, stop), slice(stop), span))
        end = span.stop
    return blocks


class _Tile(NamedTuple):
    """A block of a few sequences."""

    some: slice
    queries: slice
    keys: slice
    mask: Array | None


def _tiles(
    arrays: Arrays, batch: int, heads: int, length: int, query_block: int, mask: Array | None
) -> Iterator[_Tile]:
    """Yield tiles of about ``tile`` weights, the last queries first."""
    for queries, keys, span in reversed(causal_blocks(batch * heads, length, query_block)):
        shape = batch, heads, queries.stop - queries.start, keys.stop
        block = None if mask is None else mask[span].reshape(shape)
        count = max(1, arrays.tile // math.prod(shape[1:]))
        for first in range(0, batch, count):
            some = slice(first, min(first + count, batch))
            yield _Tile(some, queries, keys, None if block is None else block[some])


def _scores(arrays: Arrays, q: Array, k: Array, tile: _Tile) -> Array:
    """Return q k^T / sqrt(D) of a tile in scratch 0; -inf where a key is after its query."""
    some, queries, keys, _ = tile
    shape = some.stop - some.start, q.shape[1], queries.stop - queries.start, keys.stop
    scores = arrays.scratch(0, *shape)
    arrays.xp.matmul(q[some, :, queries], k[some, :, keys].swapaxes(2, 3), out=scores)
    scores *= q.shape[3] ** -0.5
    corner = scores[..., queries]
    corner += arrays.causal_mask(shape[2])
    return scores


def _attends(qkv: Array, batch: int, *others: Any) -> tuple[float, int]:
    return 2 * _causal_flops(qkv, batch), moves(qkv, *others)[1]


def _attends_backward(qkv: Array, batch: int, *others: Any) -> tuple[float, int]:
    return 5 * _causal_flops(qkv, batch), moves(qkv, *others)[1]


def _causal_flops(qkv: Array, batch: int) -> float:
    """Return the operations of one product over all pairs of a query and a key not after it."""
    count, width = qkv.shape[0], qkv.shape[1] // 3
    return float(width * count * (count // batch + 1))


class AttentionKernels(Arrays):
    """Causal self-attention over several heads, and rotary positions."""

    @costs(_attends)
    def attention(
        self, qkv: Array, batch: int, heads: int, mask: Any, out: Array, logsumexp: Array
    ) -> None:
        """Write softmax(Q K^T / sqrt(D), past only) V to ``out`` (N, C).

        Args:
            qkv: (N, 3C), rows of [queries | keys | values], each heads x D.
            batch: sequences, so that N = batch * T.
            heads: H.
            mask: of dropout on the softmax, as ``draw_mask`` returned it (here it is
                laid out as :func:`causal_blocks` says), or None.
            out: (N, C).
            logsumexp: (batch, H, T), becomes log-sum-exp of each query's scores.
        """
        xp = self.xp
        q, k, v = split_heads(qkv, batch, heads)
        context = merge_heads(out, batch, heads)
        for tile in _tiles(self, batch, heads, q.shape[2], self.query_block, mask):
            some, queries, keys, kept = tile
            weights = _scores(self, q, k, tile)
            inverse_sums = self.scratch(1, *weights.shape[:3], 1)
            largest = self.softmax_parts(weights, inverse_sums)
            logsumexp[some, :, queries] = (largest - xp.log(inverse_sums))[..., 0]
            if kept is not None:
                weights *= kept
            # The outputs, which are fewer than the weights, are divided instead of them.
            o = context[some, :, queries]
            xp.matmul(weights, v[some, :, keys], out=o)
            o *= inverse_sums

    @costs(_attends_backward)
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
        """Write dL/dqkv to ``dqkv`` (N, 3C), given what :meth:`attention` read and wrote, and
        dL/dout as ``dout`` (N, C)."""
        xp = self.xp
        q, k, v = split_heads(qkv, batch, heads)
        dq, dk, dv = split_heads(dqkv, batch, heads)
        context, dcontext = merge_heads(out, batch, heads), merge_heads(dout, batch, heads)
        length, scale = q.shape[2], q.shape[3] ** -0.5
        for tile in _tiles(self, batch, heads, length, self.query_block, mask):
            some, queries, keys, kept = tile
            weights = _scores(self, q, k, tile)
            weights -= logsumexp[some, :, queries, None]
            xp.exp(weights, out=weights)
            dscores = self.scratch(1, *weights.shape)
            do = dcontext[some, :, queries]
            xp.matmul(do, v[some, :, keys].swapaxes(2, 3), out=dscores)
            if kept is not None:
                dscores *= kept
            # With p the weights and dp their gradient, softmax needs sum_k p dp of every query,
            # which is the product of its output and the output's gradient: D terms, not T.
            deltas = self.scratch(2, *weights.shape[:3])
            self.row_dots(do, context[some, :, queries], out=deltas)
            dscores -= deltas[..., None]
            dscores *= weights
            dscores *= scale
            if kept is not None:
                weights *= kept
            xp.matmul(dscores, k[some, :, keys], out=dq[some, :, queries])
            if queries.stop == length:
                # The last queries see every key, so they come first and write all of dk and dv.
                xp.matmul(dscores.swapaxes(2, 3), q[some, :, queries], out=dk[some])
                xp.matmul(weights.swapaxes(2, 3), do, out=dv[some])
            else:
                part = self.scratch(2, *weights.shape[:2], keys.stop, q.shape[3])
                xp.matmul(dscores.swapaxes(2, 3), q[some, :, queries], out=part)
                dk[some, :, keys] += part
                xp.matmul(weights.swapaxes(2, 3), do, out=part)
                dv[some, :, keys] += part

    @costs(moves)
    def rotate(self, qkv: Array, batch: int, heads: int, cos: Array, sin: Array, sign: int) -> None:
        """Turn the channel pairs (d, d + R/2) of the first R channels of queries and keys in
        ``qkv`` (N, 3C), in place, by the angle of their position, or back if ``sign`` is -1.

        Shapes: cos, sin (T, R/2), of the positions in a sequence.
        """
        xp, half = self.xp, cos.shape[1]
        plus, minus = (xp.add, xp.subtract) if sign > 0 else (xp.subtract, xp.add)
        for part in split_heads(qkv, batch, heads)[:2]:
            for some in self.blocks(batch, heads * cos.size):
                first, second = part[some, ..., :half], part[some, ..., half : 2 * half]
                from_first = xp.multiply(first, sin, out=self.scratch(0, *first.shape))
                from_second = xp.multiply(second, sin, out=self.scratch(1, *first.shape))
                xp.multiply(first, cos, out=first)
                minus(first, from_second, out=first)
                xp.multiply(second, cos, out=second)
                plus(second, from_first, out=second)

    @costs(moves)
    def repeat_heads(self, packed: Array, heads: int, kv_heads: int, qkv: Array) -> None:
        """Write ``packed`` (N, C + 2 KD), rows of [queries | keys | values] with K heads of the
        last two, to ``qkv`` (N, 3C), each of those heads H / K times."""
        size = packed.shape[1] // (heads + 2 * kv_heads)
        for rows in self.blocks(*qkv.shape):
            few = _in_groups(packed[rows], heads, kv_heads, size)
            for one, many in zip(few, _in_groups(qkv[rows], heads, kv_heads, size), strict=True):
                self.copy(one, many)

    @costs(moves)
    def sum_heads(self, dqkv: Array, heads: int, kv_heads: int, dpacked: Array) -> None:
        """Write the gradient of what :meth:`repeat_heads` read to ``dpacked`` (N, C + 2 KD), given
        that of what it wrote, ``dqkv`` (N, 3C)."""
        size = dpacked.shape[1] // (heads + 2 * kv_heads)
        for rows in self.blocks(*dqkv.shape):
            few = _in_groups(dpacked[rows], heads, kv_heads, size)
            for one, many in zip(few, _in_groups(dqkv[rows], heads, kv_heads, size), strict=True):
                self.copy(many[:, :, :1], one)
                for other in range(1, many.shape[2]):
                    self.xp.add(one, many[:, :, other : other + 1], out=one)
