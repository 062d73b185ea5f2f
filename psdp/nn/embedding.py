"""From token ids to the residual stream."""

from __future__ import annotations

import math

import numpy as np

from psdp.backend import Backend
from psdp.config import ModelConfig
from psdp.errors import DataError
from psdp.nn.arena import Arena, Parameters
from psdp.nn.dropout import Dropout
from psdp.nn.layer import Layer
from psdp.nn.positions import sinusoids
from psdp.params import Array, Init, ParamSpec


def load_ids(
    host: Array, vocab_size: int, buffer: Array, backend: Backend, *, ordered: bool = False
) -> Array:
    """Copy token ids of any shape to the front of ``buffer`` and return that, (N,); ``ordered`` if
    gradients are to be added by them.

    Raises:
        DataError: an id is outside the vocabulary.
    """
    low, high = int(host.min()), int(host.max())
    if low < 0 or high >= vocab_size:
        raise DataError(f"token ids must be in 0..{vocab_size - 1}, got {low}..{high}")
    ids = buffer[: host.size]
    backend.load_ids(host.reshape(-1), ids, ordered=ordered)
    return ids


class Embedding(Layer, kind="embedding"):
    """x = tokens[id] + positions[t], then dropout. Rotary positions are the attention's business.

    Sinusoids have amplitude 1, so beside them x = sqrt(C) tokens[id] + positions[t], or the small
    initial embeddings would be drowned (arXiv:1706.03762, section 3.4).

    Shapes: ids (N,) integers, B sequences of T; tokens (V, C); positions (block_size, C); x (N, C).
    """

    @staticmethod
    def specs(config: ModelConfig, vocab_size: int, init: dict[str, Init]) -> list[ParamSpec]:
        specs = [_rows("embedding.tokens", (vocab_size, config.n_embd), init["tokens"])]
        if config.position == "learned":
            shape = (config.block_size, config.n_embd)
            specs.append(_rows("embedding.positions", shape, init["positions"]))
        return specs

    def __init__(self, config: ModelConfig, parameters: Parameters, arena: Arena) -> None:
        self.parameters, self.backend = parameters, arena.backend
        self.tokens = parameters.weight("tokens")
        self.positions = parameters.optional_weight("positions")
        self.learned = self.positions is not None
        self.scale = 1.0
        if config.position == "sinusoidal":
            self.scale = math.sqrt(config.n_embd)
            self.positions = arena.backend.empty(config.block_size, config.n_embd)
            arena.backend.to_device(sinusoids(config.block_size, config.n_embd), self.positions)
        self.dropout = Dropout(config.dropout, arena.rows * config.n_embd, arena)

    def forward(
        self, ids: Array, length: int, x: Array, rng: np.random.Generator | None, start: int = 0
    ) -> None:
        """Write the embedding of sequences of ``length`` that begin at position ``start``."""
        positions = None if self.positions is None else self.positions[start : start + length]
        self.backend.embed(self.tokens, ids, self.scale, positions, length, x)
        self.dropout.draw(x.size, rng)
        self.dropout.forward(x)

    def backward(self, ids: Array, length: int, dx: Array) -> None:
        """Add dL/dtokens and dL/dpositions to their views; ``dx`` may be destroyed."""
        self.dropout.forward(dx)  # its own transpose
        if self.learned:
            per_sequence = dx.reshape(-1, length * dx.shape[1])
            gradient = self.parameters.gradient("positions")[:length].reshape(-1)
            self.backend.add_column_sums(per_sequence, gradient)
        self.backend.scatter_add(ids, dx, self.scale, self.parameters.gradient("tokens"))


def _rows(name: str, shape: tuple[int, int], init: Init) -> ParamSpec:
    return ParamSpec(name, shape, init, decay=True, embedding=True)
