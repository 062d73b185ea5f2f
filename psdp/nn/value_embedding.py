"""An embedding that is added to a layer's values."""

from __future__ import annotations

from psdp.config import ModelConfig, head_size, kv_heads
from psdp.nn.arena import Arena, Parameters
from psdp.nn.layer import Layer
from psdp.params import Array, Init, ParamSpec


class ValueEmbedding(Layer, kind="embedding"):
    """values += tokens[id], with a table for each layer: what a token is reaches attention past all
    that comes between (as in modded-nanogpt; akin to value residuals, Zhou et al. 2024,
    arXiv:2410.17897).

    Shapes: ids (N,) integers; tokens (V, KD) for K heads of values; packed (N, W), rows that end in
    the values.
    """

    @staticmethod
    def specs(name: str, config: ModelConfig, vocab_size: int, init: Init) -> list[ParamSpec]:
        shape = (vocab_size, kv_heads(config) * head_size(config))
        return [ParamSpec(f"{name}.tokens", shape, init, decay=True, embedding=True)]

    def __init__(self, parameters: Parameters, ids: Array, arena: Arena) -> None:
        """``ids``: the room that those of a batch are loaded to, before each pass."""
        self.parameters, self.backend, self.ids = parameters, arena.backend, ids
        self.tokens = parameters.weight("tokens")
        width = self.tokens.shape[1]
        self.rows = arena.scratch("value rows", arena.rows, width, dtype=arena.backend.dtype)

    def forward(self, packed: Array) -> None:
        """Add to the values of ``packed``."""
        count = len(packed)
        rows = self.rows[:count]
        self.backend.embed(self.tokens, self.ids[:count], 1.0, None, count, rows)
        self.backend.add_to_last_columns(rows, packed)

    def backward(self, dpacked: Array) -> None:
        """Add dL/dtokens to its view."""
        count = len(dpacked)
        rows = self.rows[:count]
        self.backend.take_last_columns(dpacked, rows)
        self.backend.scatter_add(self.ids[:count], rows, 1.0, self.parameters.gradient("tokens"))
