"""The decoder-only Transformer as a model of language."""

from __future__ import annotations

from collections import Counter

from psdp.backend import Backend
from psdp.config import PACKED, Config
from psdp.data.batches import TextBatch
from psdp.nn.decoder import Decoder
from psdp.nn.models.base import LanguageModel, Sampler, measured
from psdp.nn.transformer import Transformer, parameter_table
from psdp.params import Array, ParamTable
from psdp.task import Measured, Step


class DecoderModel(LanguageModel):
    """A :class:`psdp.nn.transformer.Transformer`; one that samples keeps the keys and values of the
    past (:class:`psdp.nn.decoder.Decoder`)."""

    def __init__(
        self,
        config: Config,
        vocab_size: int,
        backend: Backend,
        weights: Array,
        gradient: Array | None,
    ) -> None:
        size, smoothing = config.run.batch_size, config.optim.label_smoothing
        self.transformer = Transformer(
            config.model, vocab_size, size, backend, weights, gradient, smoothing
        )
        self._all_count = config.data.window == PACKED
        self.loss = self.transformer.loss
        self.buffers = Counter(self.transformer.arena.bytes)
        if self.transformer.cast_weights is not weights:
            self.buffers["rounded weights"] = self.transformer.cast_weights.nbytes

    @staticmethod
    def table(config: Config, vocab_size: int) -> ParamTable:
        return parameter_table(config.model, vocab_size)

    @staticmethod
    def sampler(config: Config, vocab_size: int, backend: Backend, weights: Array) -> Sampler:
        return Decoder(config.model, vocab_size, backend, weights)

    def add_gradient(self, batch: TextBatch, step: Step) -> None:
        counted = None if self._all_count else batch.counted
        self.transformer.forward_backward(batch.tokens, batch.targets, step, counted)

    def evaluate(self, batch: TextBatch) -> Measured:
        return measured(*self.transformer.evaluate(batch.tokens, batch.targets), batch.counted)
