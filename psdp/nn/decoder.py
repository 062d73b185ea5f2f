"""Inference one token after another, with the keys and values of the past kept."""

from __future__ import annotations

from psdp.backend import Backend
from psdp.config import ModelConfig
from psdp.errors import DataError
from psdp.nn.arena import Arena, Parameters
from psdp.nn.block import Block
from psdp.nn.cached_attention import CachedAttention, Past
from psdp.nn.embedding import Embedding, load_ids
from psdp.nn.loss import Head
from psdp.nn.parts import norm_of
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
        parameters = Parameters.of(parameter_table(config, vocab_size), weights, None)
        arena = Arena(backend, config.block_size, training=False)
        rotary = Rotary.of(config, backend)
        self.backend, self.block_size, self.past = backend, config.block_size, Past()
        self.ids = backend.new_ids(config.block_size)
        self.embedding = Embedding(config, parameters.under("embedding"), arena)
        self.blocks = []
        for layer in range(config.n_layer):
            own = parameters.under(f"block.{layer}")
            attention = CachedAttention(
                config, own.under("attention"), arena, rotary, self.ids, self.past
            )
            self.blocks.append(Block(config, own, arena, attention))
        self.norm = norm_of(config)(config.norm_eps, parameters.under("norm"), arena)
        self.head = Head(config, parameters, arena)
        self.stream = backend.empty(config.block_size, config.n_embd)
        self.last = backend.empty(1, config.n_embd)

    @property
    def length(self) -> int:
        """How many tokens were fed."""
        return self.past.length

    def reset(self) -> None:
        """Forget everything fed."""
        self.past.length = 0

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
            block.forward(x, 1, None)
        self.norm.forward(x[-1:], self.last)
        logits = self.backend.empty(self.embedding.tokens.shape[0])
        self.head.logits(self.last, logits[None])
        self.past.length += count
        return logits
