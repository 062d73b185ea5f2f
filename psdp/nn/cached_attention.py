"""Attention of one growing sequence, with the keys and values of the past kept."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from psdp.backend.kernels.attention import merge_heads, split_heads
from psdp.config import ModelConfig
from psdp.nn.arena import Arena, Parameters
from psdp.nn.attention import Attention
from psdp.nn.positions import Rotary
from psdp.params import Array


@dataclass
class Past:
    """How many positions of a sequence are kept. All layers of a model share it."""

    length: int = 0


class CachedAttention(Attention, kind="attention"):
    """Attention of the positions that follow ``past``, to all of it and to themselves. Whoever owns
    ``past`` moves it on, after all layers.

    Shapes: keys, values (1, H, block_size, D).
    """

    def __init__(
        self,
        config: ModelConfig,
        parameters: Parameters,
        arena: Arena,
        rotary: Rotary | None,
        past: Past,
    ) -> None:
        super().__init__(config, parameters, arena, rotary)
        self.past = past
        shape = (1, config.n_head, config.block_size, config.n_embd // config.n_head)
        self.keys, self.values = self.backend.empty(*shape), self.backend.empty(*shape)

    def _attend(
        self, qkv: Array, batch: int, context: Array, rng: np.random.Generator | None
    ) -> None:
        matmul, start = self.backend.xp.matmul, self.past.length
        seen = start + len(qkv)
        new = slice(start, seen)
        self._compared(qkv, batch, start)
        q, k, v = split_heads(qkv, batch, self.heads)
        q *= q.shape[3] ** -0.5
        self.keys[:, :, new], self.values[:, :, new] = k, v
        weights = self.backend.scratch(0, batch, self.heads, len(qkv), seen)
        inverse_sums = self.backend.scratch(1, batch, self.heads, len(qkv), 1)
        matmul(q, self.keys[:, :, :seen].swapaxes(2, 3), out=weights)
        weights += self.backend.causal_mask(self.keys.shape[2])[new, :seen]
        self.backend.softmax_parts(weights, inverse_sums)
        merged = merge_heads(context, batch, self.heads)
        matmul(weights, self.values[:, :, :seen], out=merged)
        merged *= inverse_sums
