"""Keys and values that several heads of queries share."""

from __future__ import annotations

from psdp.config import ModelConfig, head_size, kv_heads
from psdp.nn.arena import Arena
from psdp.nn.layer import Layer
from psdp.params import Array


class SharedHeads(Layer, kind="attention"):
    """Hand each head of keys and values to a group of heads of queries (Ainslie et al. 2023,
    arXiv:2305.13245). The rest of attention sees as many of each.

    Shapes: packed (N, C + 2 KD), rows of [queries | keys | values] with K heads of the last two;
    qkv (N, 3C).
    """

    def __init__(self, config: ModelConfig, arena: Arena) -> None:
        self.backend, self.heads, self.kv_heads = arena.backend, config.n_head, kv_heads(config)
        width = (self.heads + 2 * self.kv_heads) * head_size(config)
        self.packed = arena.scratch("packed qkv", arena.rows, width)

    def forward(self, packed: Array, qkv: Array) -> None:
        """Write ``qkv``."""
        self.backend.repeat_heads(packed, self.heads, self.kv_heads, qkv)

    def backward(self, dqkv: Array, dpacked: Array) -> None:
        """Write the gradient of what was packed to ``dpacked``."""
        self.backend.sum_heads(dqkv, self.heads, self.kv_heads, dpacked)
