"""Inference one token after another, with the keys and values of the past kept."""

from __future__ import annotations

from psdp.backend import Backend
from psdp.backend.kernels.attention import merge_heads, split_heads
from psdp.config import ModelConfig
from psdp.errors import DataError
from psdp.nn.arena import Arena, Parameters
from psdp.nn.embedding import Embedding, load_ids
from psdp.nn.layernorm import LayerNorm
from psdp.nn.linear import Linear, ResidualLinear
from psdp.nn.loss import TiedHead
from psdp.nn.mlp import MLP
from psdp.nn.positions import Rotary
from psdp.nn.transformer import parameter_table
from psdp.params import Array


class Decoder:
    """The Transformer for one growing sequence: a call computes the new positions only.

    Args:
        config: shape of the model.
        vocab_size: V, the number of different tokens.
        backend: where the arrays live.
        weights: flat vector (P,), on the backend; the decoder sees later changes of it, but keys
            and values already kept stay as they were computed.
    """

    def __init__(
        self, config: ModelConfig, vocab_size: int, backend: Backend, weights: Array
    ) -> None:
        parameters = Parameters(parameter_table(config, vocab_size), weights, None)
        arena = Arena(backend, config.block_size, training=False)
        rotary = None
        if config.position == "rotary":
            rotary = Rotary(config.block_size, config.n_embd // config.n_head, backend)
        self.backend, self.block_size, self.length = backend, config.block_size, 0
        self.embedding = Embedding(config, parameters.under("embedding"), arena)
        self.blocks = [
            _CachedBlock(config, parameters.under(f"block.{layer}"), arena, rotary)
            for layer in range(config.n_layer)
        ]
        self.norm = LayerNorm(parameters.under("norm"), arena)
        self.head = TiedHead(self.embedding.tokens, arena)
        self.ids = backend.new_ids(config.block_size)
        self.stream = backend.empty(config.block_size, config.n_embd)
        self.last = backend.empty(1, config.n_embd)

    def reset(self) -> None:
        """Forget everything fed."""
        self.length = 0

    def feed(self, tokens: Array) -> Array:
        """Append ``tokens`` (n,), n >= 1, and return the logits (V,) of the last of them.

        Raises:
            DataError: the sequence would outgrow block_size, or a token is outside the vocabulary.
        """
        start, count = self.length, len(tokens)
        if not 1 <= count <= self.block_size - start:
            raise DataError(
                f"a decoder of {self.block_size} positions, {start} of them taken, was fed "
                f"{count} tokens; reset it and feed the last {self.block_size} or fewer"
            )
        x = self.stream[:count]
        ids = load_ids(tokens, self.embedding.tokens.shape[0], self.ids, self.backend)
        self.embedding.forward(ids, count, x, None, start)
        for block in self.blocks:
            block.forward(x, start)
        self.norm.forward(x[-1:], self.last)
        logits = self.backend.empty(self.embedding.tokens.shape[0])
        self.head.logits(self.last, logits[None])
        self.length += count
        return logits


class _CachedBlock:
    """A block whose attention reads keys and values that it has kept.

    Shapes: x (n, C), the new positions; keys, values (1, H, block_size, D).
    """

    def __init__(
        self, config: ModelConfig, parameters: Parameters, arena: Arena, rotary: Rotary | None
    ) -> None:
        backend, rows, width = arena.backend, arena.rows, config.n_embd
        shape = (1, config.n_head, rows, width // config.n_head)
        self.backend, self.rotary, self.heads = backend, rotary, config.n_head
        self.rows = rows
        self.norm1 = LayerNorm(parameters.under("norm1"), arena)
        self.qkv = Linear(parameters.under("attention.qkv"), arena)
        self.out = ResidualLinear(0.0, parameters.under("attention.out"), arena)
        self.norm2 = LayerNorm(parameters.under("norm2"), arena)
        self.mlp = MLP(config, parameters.under("mlp"), arena)
        self.keys, self.values = backend.empty(*shape), backend.empty(*shape)
        self.normed = arena.scratch("normed", rows, width)
        self.rows_qkv = arena.scratch("qkv", rows, 3 * width)
        self.context = arena.scratch("context", rows, width)

    def forward(self, x: Array, start: int) -> None:
        """Add both branches to ``x``, whose first row is position ``start``."""
        normed = self.normed[: len(x)]
        self.norm1.forward(x, normed)
        self._attend(normed, start, x)
        self.norm2.forward(x, normed)
        self.mlp.forward(normed, x, None)

    def _attend(self, x: Array, start: int, y: Array) -> None:
        matmul, new, seen = self.backend.xp.matmul, slice(start, start + len(x)), start + len(x)
        qkv, context = self.rows_qkv[: len(x)], self.context[: len(x)]
        self.qkv.forward(x, qkv)
        if self.rotary is not None:
            self.rotary.forward(qkv, 1, self.heads, start)
        q, k, v = split_heads(qkv, 1, self.heads)
        q *= q.shape[3] ** -0.5
        self.keys[:, :, new], self.values[:, :, new] = k, v
        weights = self.backend.scratch(0, 1, self.heads, len(x), seen)
        inverse_sums = self.backend.scratch(1, 1, self.heads, len(x), 1)
        matmul(q, self.keys[:, :, :seen].swapaxes(2, 3), out=weights)
        weights += self.backend.causal_mask(self.rows)[new, :seen]
        self.backend.softmax_parts(weights, inverse_sums)
        merged = merge_heads(context, 1, self.heads)
        matmul(weights, self.values[:, :, :seen], out=merged)
        merged *= inverse_sums
        self.out.forward(context, y, None)
