"""Causal self-attention over several heads."""

from __future__ import annotations

import numpy as np

from psdp.backend.kernels.attention import causal_blocks
from psdp.config import ModelConfig, head_size, kv_heads
from psdp.nn.arena import Arena, Parameters
from psdp.nn.dropout import Dropout
from psdp.nn.layer import Layer
from psdp.nn.linear import Linear, ResidualLinear
from psdp.nn.positions import Rotary
from psdp.nn.rmsnorm import HeadNorm
from psdp.nn.shared_heads import SharedHeads
from psdp.nn.value_embedding import ValueEmbedding
from psdp.params import Array, Init, ParamSpec


class Attention(Layer, kind="attention"):
    """y += softmax(Q K^T / sqrt(D), past only) V, merged and projected (arXiv:1706.03762).

    What lies between the two linear layers is the backend's: it is where the time goes.

    Shapes: x, y (N, C); qkv (N, 3C); context (N, C); logsumexp (B, H, T).
    """

    @staticmethod
    def specs(name: str, config: ModelConfig, qkv: Init, out: Init) -> list[ParamSpec]:
        width, kv_width = config.n_embd, kv_heads(config) * head_size(config)
        maps = (width, kv_width, kv_width)
        specs = [
            *Linear.specs(f"{name}.qkv", width, sum(maps), qkv, config.bias, maps),
            *Linear.specs(f"{name}.out", width, width, out, config.bias),
        ]
        if config.qk_norm:
            specs += HeadNorm.specs(f"{name}.query_norm", config)
            specs += HeadNorm.specs(f"{name}.key_norm", config)
        return specs

    def __init__(
        self,
        config: ModelConfig,
        parameters: Parameters,
        arena: Arena,
        rotary: Rotary | None,
        ids: Array,
    ) -> None:
        """``ids``: the room that token ids are loaded to, before each pass."""
        width, heads, length = config.n_embd, config.n_head, config.block_size
        rows, batch = arena.rows, arena.rows // length
        self.backend, self.rotary, self.heads = arena.backend, rotary, heads
        self.qkv = Linear(parameters.under("qkv"), arena)
        self.out = ResidualLinear(config.dropout, parameters.under("out"), arena)
        self.norms = [
            HeadNorm(config, parameters.under(name), arena)
            for name in (("query_norm", "key_norm") if config.qk_norm else ())
        ]
        self.shared, self.value_embedding = None, None
        if kv_heads(config) != heads:
            self.shared = SharedHeads(config, arena)
        if config.value_embeddings:
            self.value_embedding = ValueEmbedding(parameters.under("values"), ids, arena)
        self.rows_qkv = arena.kept("qkv", rows, 3 * width)
        self.context = arena.kept("context", rows, width)
        self.logsumexp = arena.kept("log-sum-exp", rows * heads, dtype=arena.backend.dtype)
        self.dropout = Dropout(config.dropout, self._weights(batch, length), arena)
        if arena.training:
            self.rows_dqkv = arena.scratch("wide", rows, 3 * width)
            self.dcontext = arena.scratch("dcontext", rows, width)

    def forward(self, x: Array, batch: int, y: Array, rng: np.random.Generator | None) -> None:
        """Add the attention's output to ``y``; keep what backward needs."""
        qkv, context = self.rows_qkv[: len(x)], self.context[: len(x)]
        packed = qkv if self.shared is None else self.shared.packed[: len(x)]
        self.qkv.forward(x, packed)
        if self.value_embedding is not None:
            self.value_embedding.forward(packed)
        if self.shared is not None:
            self.shared.forward(packed, qkv)
        self._attend(qkv, batch, context, rng)
        self.out.forward(context, y, rng)

    def _attend(
        self, qkv: Array, batch: int, context: Array, rng: np.random.Generator | None
    ) -> None:
        """Write what the queries find to ``context``; ``qkv`` becomes what :meth:`_compared` makes
        of it."""
        count = len(qkv)
        self._compared(qkv, batch)
        self.dropout.draw(self._weights(batch, count // batch), rng)
        per_query = self._per_query(batch, count)
        self.backend.attention(qkv, batch, self.heads, self.dropout.mask, context, per_query)

    def _compared(self, qkv: Array, batch: int, start: int = 0) -> None:
        """Normalise and turn queries and keys in place, as far as the settings have it; their first
        position is ``start``."""
        if self.norms:
            for norm, part in zip(self.norms, _queries_and_keys(qkv), strict=True):
                norm.forward(part)
        if self.rotary is not None:
            self.rotary.forward(qkv, batch, self.heads, start)

    def _compared_backward(self, dqkv: Array, batch: int) -> None:
        """Turn the gradient into that of what was normalised and turned, in place."""
        if self.rotary is not None:
            self.rotary.backward(dqkv, batch, self.heads)
        if self.norms:
            for norm, part in zip(self.norms, _queries_and_keys(dqkv), strict=True):
                norm.backward(part)

    def backward(self, x: Array, batch: int, dy: Array, dx: Array) -> None:
        """Add the gradients of both layers to their views; write dL/dx to ``dx``."""
        count = x.shape[0]
        dqkv, context, dcontext = (
            self.rows_dqkv[:count],
            self.context[:count],
            self.dcontext[:count],
        )
        self.out.linear.backward(context, self.out.backward(dy), dcontext)
        self.backend.attention_backward(
            self.rows_qkv[:count],
            batch,
            self.heads,
            self.dropout.mask,
            context,
            self._per_query(batch, count),
            dcontext,
            dqkv,
        )
        self._compared_backward(dqkv, batch)
        dpacked = dqkv
        if self.shared is not None:
            dpacked = self.shared.packed[:count]
            self.shared.backward(dqkv, dpacked)
        if self.value_embedding is not None:
            self.value_embedding.backward(dpacked)
        self.qkv.backward(x, dpacked, dx)

    def _weights(self, batch: int, length: int) -> int:
        """Return the size of a dropout mask."""
        span: slice = causal_blocks(batch * self.heads, length, self.backend.query_block)[-1].span
        return int(span.stop)

    def _per_query(self, batch: int, count: int) -> Array:
        """View the log-sum-exp of ``count`` tokens as (B, H, T)."""
        return self.logsumexp[: count * self.heads].reshape(batch, self.heads, -1)


def _queries_and_keys(qkv: Array) -> tuple[Array, Array]:
    """View the first two thirds of rows of [queries | keys | values]."""
    width = qkv.shape[1] // 3
    return qkv[:, :width], qkv[:, width : 2 * width]
