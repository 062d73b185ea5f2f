"""Inference one token after another, with the keys and values of the past kept."""

from __future__ import annotations

from collections.abc import Sequence

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

MOST = 32
"""Sequences at a time: more would gain little."""

ROOM_BYTES = 2**30
"""That the keys and values of several may take."""


class Decoder:
    """The Transformer for growing sequences: a call computes the new positions only. Where that is
    one of each sequence they are computed together; of several, which make products of many rows
    already, one sequence after the other.

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
        self.attentions: list[CachedAttention] = []
        self.blocks = []
        for layer in range(config.n_layer):
            own = parameters.under(f"block.{layer}")
            attention = CachedAttention(
                config, own.under("attention"), arena, rotary, self.ids, self.past
            )
            self.attentions.append(attention)
            self.blocks.append(Block(config, own, arena, attention))
        self.norm = norm_of(config)(config.norm_eps, parameters.under("norm"), arena)
        self.head = Head(config, parameters, arena)
        self.stream = backend.empty(config.block_size, config.n_embd)
        self.last = backend.empty(config.block_size, config.n_embd)
        self.normed = backend.empty(config.block_size, config.n_embd)
        self.count = 1
        kept = sum(one.keys.nbytes + one.values.nbytes for one in self.attentions)
        self.most = max(1, min(MOST, config.block_size, ROOM_BYTES // kept))

    @property
    def length(self) -> int:
        """How many tokens each sequence was fed."""
        return self.past.length

    def reset(self, count: int = 1) -> None:
        """Forget everything fed; so many sequences begin."""
        self.past.length = 0
        if count != self.count:
            self.select([0] * count)

    def select(self, rows: Sequence[int]) -> None:
        """Go on with these of the sequences, in this order; one may be among them several times."""
        for attention in self.attentions:
            attention.select(rows)
        self.count = len(rows)

    def feed(self, tokens: Array) -> Array:
        """Append ``tokens`` (B, n), n >= 1, and return the logits (B, V) of the last of each.

        Raises:
            DataError: they would outgrow block_size, or a token is outside the vocabulary.
        """
        start, (count, length) = self.length, tokens.shape
        assert count == self.count <= self.most, f"{count} sequences, of {self.count}"
        if not 1 <= length <= self.block_size - start:
            raise DataError(
                f"a decoder of {self.block_size} positions, {start} of them taken, was fed "
                f"{length} tokens; reset it and feed the last {self.block_size} or fewer"
            )
        logits = self.backend.empty(count, self.embedding.tokens.shape[0])
        together = count if length == 1 else 1
        for first in range(0, count, together):
            self.past.first, rows = first, slice(first, first + together)
            self._feed(tokens[rows], logits[rows])
        self.past.length += length
        return logits

    def _feed(self, tokens: Array, logits: Array) -> None:
        """Append to the sequences from ``past.first`` on; write their logits."""
        count, length = tokens.shape
        x, last = self.stream[: tokens.size], self.last[:count]
        ids = load_ids(tokens, self.embedding.tokens.shape[0], self.ids, self.backend)
        self.embedding.forward(ids, length, x, None, self.length)
        for block in self.blocks:
            block.forward(x, count, None)
        self.backend.copy(x[length - 1 :: length], last)
        self.norm.forward(last, self.normed[:count])
        self.head.logits(self.normed[:count], logits)
