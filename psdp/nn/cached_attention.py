"""Attention of growing sequences, with the keys and values of the past kept."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from psdp.backend.kernels.attention import merge_heads, split_heads
from psdp.config import ModelConfig, head_size, kv_heads
from psdp.nn.arena import Arena, Parameters
from psdp.nn.attention import Attention
from psdp.nn.positions import Rotary
from psdp.params import Array


@dataclass
class Past:
    """How many positions of each sequence are kept, and the first sequence that a pass is of. All
    layers of a model share it."""

    length: int = 0
    first: int = 0


class CachedAttention(Attention, kind="attention"):
    """Attention of the positions that follow ``past``, to all of it and to themselves. Whoever owns
    ``past`` moves it on, after all layers.

    Shapes: keys, values (B, K, block_size, D), for K heads of them.
    """

    def __init__(
        self,
        config: ModelConfig,
        parameters: Parameters,
        arena: Arena,
        rotary: Rotary | None,
        ids: Array,
        past: Past,
    ) -> None:
        super().__init__(config, parameters, arena, rotary, ids)
        self.past, self.group = past, config.n_head // kv_heads(config)
        shape = (1, kv_heads(config), config.block_size, head_size(config))
        self.keys, self.values = self.backend.empty(*shape), self.backend.empty(*shape)

    def select(self, rows: Sequence[int]) -> None:
        """Keep the past of these sequences, in this order."""
        self.keys, self.values = self._selected(self.keys, rows), self._selected(self.values, rows)

    def _selected(self, kept: Array, rows: Sequence[int]) -> Array:
        chosen, past = self.backend.empty(len(rows), *kept.shape[1:]), slice(self.past.length)
        for row, source in enumerate(rows):
            self.backend.copy(kept[source, :, past], chosen[row, :, past])
        return chosen

    def _attend(
        self, qkv: Array, batch: int, context: Array, rng: np.random.Generator | None
    ) -> None:
        matmul, start = self.backend.xp.matmul, self.past.length
        rows, length = slice(self.past.first, self.past.first + batch), len(qkv) // batch
        seen = start + length
        new = slice(start, seen)
        self._compared(qkv, batch, start)
        q, k, v = split_heads(qkv, batch, self.heads)
        q *= q.shape[3] ** -0.5
        # Of a group of heads all have the same keys and values.
        keys, values = self.keys[rows, :, None], self.values[rows, :, None]
        keys[:, :, 0, new], values[:, :, 0, new] = k[:, :: self.group], v[:, :: self.group]
        shape = (batch, keys.shape[1], self.group, length)
        weights, inverse_sums = (self.backend.scratch(i, *shape, n) for i, n in ((0, seen), (1, 1)))
        matmul(q.reshape(*shape, -1), keys[..., :seen, :].swapaxes(3, 4), out=weights)
        weights += self.backend.causal_mask(self.keys.shape[2])[new, :seen]
        self.backend.softmax_parts(weights, inverse_sums)
        merged = merge_heads(context, batch, self.heads).reshape(*shape, -1)
        matmul(weights, values[..., :seen, :], out=merged)
        merged *= inverse_sums
