"""A second architecture: what comes next depends on which words came before, the last ones most, in
no order. With its row (bag_row.py) all that it takes to add one."""

from __future__ import annotations

import numpy as np

from psdp.backend import Backend
from psdp.config import Config
from psdp.data.batches import TextBatch
from psdp.nn.models import LanguageModel
from psdp.nn.models.base import measured
from psdp.params import Array, Init, ParamSpec, ParamTable
from psdp.task import Measured, Step


class BagOfWords(LanguageModel):
    """logits = h W, with h the mean of the embeddings so far, weighted by decay^distance.

    Shapes: words (V, C), W (C, V); mix (T, T), rows sum to 1.
    """

    def __init__(
        self,
        config: Config,
        vocab_size: int,
        backend: Backend,
        weights: Array,
        gradient: Array | None,
    ) -> None:
        table = self.table(config, vocab_size)
        self.weights = table.views(weights)
        self.gradient = {} if gradient is None else table.views(gradient)
        self.loss, self.buffers = backend.zeros(1, dtype=np.float64), {}
        distance = np.subtract.outer(*2 * (np.arange(config.model.block_size),))
        mix = np.tril(config.model.bag_decay ** np.abs(distance))
        self.mix = (mix / mix.sum(axis=1, keepdims=True)).astype(backend.dtype)

    @staticmethod
    def table(config: Config, vocab_size: int) -> ParamTable:
        width, init = config.model.n_embd, Init("normal", 0.1)
        words = ParamSpec("words", (vocab_size, width), init, decay=True)
        return ParamTable([words, ParamSpec("out", (width, vocab_size), init, decay=True)])

    def add_gradient(self, batch: TextBatch, step: Step) -> None:
        h, p, losses = self._forward(batch)
        shares = batch.counted * (step.scale / batch.counted.sum())
        self.loss += (losses * shares).sum()
        np.put_along_axis(
            p, batch.targets[..., None], np.take_along_axis(p, batch.targets[..., None], 2) - 1, 2
        )
        p *= shares[..., None].astype(p.dtype)
        self.gradient["out"] += np.einsum("btc,btv->cv", h, p)
        np.add.at(self.gradient["words"], batch.tokens, self.mix.T @ (p @ self.weights["out"].T))
        if step.ready is not None:
            step.ready(slice(None))

    def evaluate(self, batch: TextBatch) -> Measured:
        _, p, losses = self._forward(batch)
        return measured(losses, p.argmax(axis=2) == batch.targets, batch.counted)

    def _forward(self, batch: TextBatch) -> tuple[Array, Array, Array]:
        """Return h (B, T, C), the probabilities (B, T, V) and the losses (B, T)."""
        h = self.mix @ self.weights["words"][batch.tokens]
        p = np.exp(h @ self.weights["out"])
        p /= p.sum(axis=2, keepdims=True)
        return h, p, -np.log(np.take_along_axis(p, batch.targets[..., None], 2)[..., 0])
