"""The head, and the cross-entropy of its logits."""

from __future__ import annotations

from psdp.config import ModelConfig
from psdp.nn.arena import Arena, Parameters
from psdp.nn.layer import Layer
from psdp.params import Array, Init, ParamSpec

HEAD = "head.tokens"
LEAST_ROWS = 256


class Head(Layer, kind="head and loss"):
    """logits = x E^T, and -log softmax(logits)[target] of each token, with E the token embedding
    (Press and Wolf 2017, arXiv:1608.05859) or a matrix of the head's own.

    With a cap c the logits are c tanh(x E^T / c) (Gemma 2, arXiv:2408.00118).

    The (N, V) logits are never made whole: rows are taken a few at a time, and the logits of these
    become their own gradient in place, which is used at once.

    Shapes: x, dx (N, C); E (V, C); targets (N,) integers; losses (N,), nats a token.
    """

    @staticmethod
    def specs(config: ModelConfig, vocab_size: int, init: Init) -> list[ParamSpec]:
        """Return the parameters of its own."""
        if config.tied_head:
            return []
        shape = (vocab_size, config.n_embd)
        return [ParamSpec(HEAD, shape, init, decay=True, embedding=True)]

    @staticmethod
    def matrix(config: ModelConfig) -> str:
        """Return the name of E."""
        return "embedding.tokens" if config.tied_head else HEAD

    def __init__(
        self, config: ModelConfig, parameters: Parameters, arena: Arena, smoothing: float = 0.0
    ) -> None:
        """``smoothing``: part of the loss that is of the mean of all tokens, in training alone."""
        self.smoothing = smoothing
        self.embedding = parameters.cast_weight(self.matrix(config))
        self.backend, self.cap = arena.backend, config.logit_softcap
        vocab_size = self.embedding.shape[0]
        # A product of few rows wastes BLAS, so a large vocabulary outgrows the tile.
        self.step = min(arena.rows, max(LEAST_ROWS, self.backend.tile // vocab_size))
        self.chunk = arena.scratch("logits", self.step, vocab_size)
        self.capped = arena.scratch("capped logits", self.step if self.cap else 0, vocab_size)

    def logits(self, x: Array, out: Array) -> None:
        """Write the logits (N, V) of ``x`` to ``out``."""
        self.backend.matmul(x, self.embedding.T, out)
        if self.cap:
            self.backend.cap(out, self.cap)

    def evaluate(self, x: Array, targets: Array, losses: Array, best: Array) -> None:
        """Write the losses, and the argmax of each row of logits to ``best`` (N,)."""
        for rows in self._chunks(x.shape[0]):
            logits = self.chunk[: rows.stop - rows.start]
            self.logits(x[rows], logits)
            self.backend.argmax(logits, best[rows])
            self.backend.cross_entropy(logits, targets[rows], 1.0, losses[rows])

    def forward_backward(
        self,
        x: Array,
        targets: Array,
        scale: float,
        losses: Array,
        dx: Array,
        gradient: Array,
        shares: Array | None = None,
    ) -> None:
        """Write the losses, each times its row's of ``shares`` (N,), if there are any; with
        L = scale * their sum, write dL/dx and add dL/dE."""
        for rows in self._chunks(x.shape[0]):
            logits = self.chunk[: rows.stop - rows.start]
            self.logits(x[rows], logits)
            capped = self.capped[: len(logits)]
            if self.cap:
                self.backend.copy(logits, capped)
            own = losses[rows]
            self.backend.cross_entropy(logits, targets[rows], scale, own, self.smoothing)
            if shares is not None:
                self.backend.scale_rows(logits, shares[rows])
                self.backend.scale_rows(own[:, None], shares[rows])
            if self.cap:
                self.backend.cap_backward(capped, self.cap, logits)
            self.backend.matmul(logits, self.embedding, dx[rows])
            self.backend.add_matmul(logits.T, x[rows], gradient)

    def _chunks(self, count: int) -> list[slice]:
        return [slice(start, min(start + self.step, count)) for start in range(0, count, self.step)]
