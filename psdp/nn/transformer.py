"""The whole model: the table of its parameters, and forward and backward over flat vectors."""

from __future__ import annotations

import math

import numpy as np

from psdp.backend import Backend
from psdp.config import ModelConfig, head_size, kv_heads, mlp_width
from psdp.nn.arena import Arena, Parameters
from psdp.nn.attention import Attention
from psdp.nn.block import Block
from psdp.nn.embedding import Embedding, load_ids
from psdp.nn.layer import Layer
from psdp.nn.loss import Head
from psdp.nn.parts import norm_of
from psdp.nn.positions import Rotary
from psdp.nn.value_embedding import ValueEmbedding
from psdp.params import Array, Init, ParamSpec, ParamTable
from psdp.records.profile import OTHER
from psdp.task import Step


def parameter_table(config: ModelConfig, vocab_size: int) -> ParamTable:
    """Return every parameter of the model; matrices, embeddings among them, are decayed."""
    init = _initial(config, vocab_size)
    specs: list[ParamSpec] = [*Embedding.specs(config, vocab_size, init)]
    for layer in range(config.n_layer):
        specs += Block.specs(f"block.{layer}", config, init)
        if config.value_embeddings:
            name = f"block.{layer}.attention.values"
            specs += ValueEmbedding.specs(name, config, vocab_size, init["values"])
    specs += norm_of(config).specs("norm", config.n_embd, config.bias)
    specs += Head.specs(config, vocab_size, init["tokens"])
    return ParamTable(specs)


def _initial(config: ModelConfig, vocab_size: int) -> dict[str, Init]:
    """Return how each kind of matrix starts.

    "normal" is GPT-2's: 0.02, and for the matrices that end a residual branch 0.02 / sqrt(their
    number), which keeps the variance of the residual stream (Radford et al. 2019). "xavier" is
    uniform with half-width sqrt(6 / (fan in + fan out)) (Glorot and Bengio 2010). With --zero-init
    branches end in zeros, so that a block begins as the identity (Zhang et al. 2019,
    arXiv:1901.09321).
    """
    width, inner = config.n_embd, mlp_width(config)
    kv_width = kv_heads(config) * head_size(config)
    shapes = {
        "tokens": (vocab_size, width),
        "positions": (config.block_size, width),
        "values": (vocab_size, kv_width),
        "qkv": (width, width + 2 * kv_width),
        "out": (width, width),
        "up": (width, inner),
        "down": (inner, width),
    }
    if config.init == "xavier":
        init = {kind: Init("uniform", math.sqrt(6 / sum(shape))) for kind, shape in shapes.items()}
    else:
        residual = Init("normal", 0.02 / math.sqrt(2 * config.n_layer))
        init = dict.fromkeys(shapes, Init("normal", 0.02)) | {"out": residual, "down": residual}
    if config.zero_init:
        init |= {"out": Init("zeros"), "down": Init("zeros")}
    return init


class Transformer(Layer, kind=OTHER):
    """A decoder-only Transformer whose layers are views of ``weights`` and ``gradient``.

    Writing into ``weights`` changes the model; nothing has to be loaded or unpacked. All memory is
    allocated here, for ``batch_size`` sequences of ``config.block_size`` tokens.

    Args:
        config: shape of the model.
        vocab_size: V, the number of different tokens.
        batch_size: the most sequences a call may bring.
        backend: where the arrays live.
        weights: flat vector (P,), on the backend.
        gradient: flat vector (P,), on the backend; None for a model that only evaluates, which
            needs far less memory.
        label_smoothing: part of the loss that is of the mean of all tokens, in training alone.

    Attributes:
        loss: (1,) float64 on the backend, to be cleared by whoever adds up losses in it.
    """

    def __init__(
        self,
        config: ModelConfig,
        vocab_size: int,
        batch_size: int,
        backend: Backend,
        weights: Array,
        gradient: Array | None,
        label_smoothing: float = 0.0,
    ) -> None:
        table = parameter_table(config, vocab_size)
        self.cast_weights = backend.new_cast_weights(weights)
        parameters = Parameters.of(table, weights, gradient, self.cast_weights)
        rows = batch_size * config.block_size
        self.arena = arena = Arena(backend, rows, training=gradient is not None)
        rotary = Rotary.of(config, backend)
        self.config, self.backend, self.batch_size = config, backend, batch_size
        self._weights = weights
        self._spans = [table.matrices_under(f"block.{i}.") for i in range(config.n_layer)]
        self.vocab_size = vocab_size
        self.ids, self.targets = backend.new_ids(rows), backend.new_ids(rows)
        self.embedding = Embedding(config, parameters.under("embedding"), arena)
        self.blocks = []
        for layer in range(config.n_layer):
            own = parameters.under(f"block.{layer}")
            attention = Attention(config, own.under("attention"), arena, rotary, self.ids)
            self.blocks.append(Block(config, own, arena, attention))
        self.norm = norm_of(config)(config.norm_eps, parameters.under("norm"), arena)
        self.head = Head(config, parameters, arena, label_smoothing)
        self.parameters = parameters
        # The gradient flows back through the memory that the residual stream came up in.
        self.stream = arena.kept("residual stream", rows, config.n_embd, dtype=backend.dtype)
        self.normed = arena.kept("normed", arena.rows, config.n_embd)
        if arena.training:
            self.dnormed = arena.scratch("dbranch", arena.rows, config.n_embd)
        self.best = backend.empty(arena.rows, dtype=np.int32)
        self.losses, self.shares = backend.empty(arena.rows), backend.empty(arena.rows)
        self.loss = backend.zeros(1, dtype=np.float64)

    def forward_backward(
        self, tokens: Array, targets: Array, step: Step, counted: Array | None = None
    ) -> None:
        """Add ``step.scale`` times the mean loss, nats a token, to ``loss``, and as much of its
        gradient to the gradient. A GPU may still be at it on return.

        Args:
            tokens: integers (B, T), B <= batch_size and T <= block_size.
            targets: integers (B, T), the token that follows each.
            step: its ``rng`` draws the dropout masks.
            counted: bool (B, T), the targets that the mean is of, at least one; None: all.

        Raises:
            DataError: a token is outside the vocabulary.
        """
        batch, length = tokens.shape
        self._load(tokens, self.ids, ordered=True)
        self._load(targets, self.targets)
        if step.rng is not None:
            self.backend.seed(step.rng)
        scale, shares = step.scale / tokens.size, None
        if counted is not None:
            # By row in the device's memory, so that one graph is for however many count.
            scale, shares = 1.0, self.shares[: tokens.size]
            each = step.scale / np.count_nonzero(counted)
            self.backend.to_device(np.where(counted.reshape(-1), each, 0.0), shares)
        how = shares is not None, step.rng is not None, step.ready is not None
        key = self, batch, length, scale, *how
        self.backend.run_captured(key, lambda: self._step(batch, length, step, scale, shares))

    def _step(
        self, batch: int, length: int, step: Step, scale: float, shares: Array | None
    ) -> None:
        """Take ``scale`` times the sum of the losses, each as often as its row of ``shares`` says,
        if there are any."""
        count, backend, ready = batch * length, self.backend, step.ready
        targets, dhead = self.targets[:count], self.parameters.gradient(Head.matrix(self.config))
        stream, dnormed, losses = self.stream[:count], self.dnormed[:count], self.losses[:count]
        normed = self._forward(batch, length, step)
        self.head.forward_backward(normed, targets, scale, losses, dnormed, dhead, shares)
        backend.add_total(losses, scale, self.loss)
        backend.clear(stream)
        self.norm.backward(dnormed, stream)
        for block, span in zip(reversed(self.blocks), reversed(self._spans), strict=True):
            block.backward(batch, stream)
            step.pulse()
            if ready is not None:
                ready(span)
        self.embedding.backward(self.ids[:count], length, stream)
        if ready is not None:
            ready(slice(self._spans[0].start))
            ready(slice(self._spans[-1].stop, None))

    def total_loss(self) -> float:
        """Return what :meth:`forward_backward` has added to ``loss``; it waits for the device."""
        return float(self.backend.on_host(self.loss)[0])

    def evaluate(self, tokens: Array, targets: Array) -> tuple[Array, Array]:
        """Return each token's loss, nats, and whether the likeliest token was right, both NumPy
        arrays (B, T). Nothing is dropped and no gradient is written.

        Raises:
            DataError: a token is outside the vocabulary.
        """
        (batch, length), count = tokens.shape, tokens.size
        self._load(tokens, self.ids)
        normed = self._forward(batch, length, Step())
        losses, best = self.losses[:count], self.best[:count]
        self.head.evaluate(normed, self._load(targets, self.targets), losses, best)
        host_losses = np.empty(count, self.backend.dtype)
        host_best = np.empty(count, np.int32)
        self.backend.to_host(losses, host_losses)
        self.backend.to_host(best, host_best)
        return host_losses.reshape(tokens.shape), host_best.reshape(tokens.shape) == targets

    def logits(self, tokens: Array) -> Array:
        """Return the logits (B, T, V) of ``tokens`` (B, T) in a fresh array of the backend."""
        self._load(tokens, self.ids)
        batch, length = tokens.shape
        normed = self._forward(batch, length, Step())
        out = self.backend.empty(tokens.size, self.vocab_size)
        self.head.logits(normed, out)
        return out.reshape(*tokens.shape, self.vocab_size)

    def _forward(self, batch: int, length: int, step: Step) -> Array:
        """Return the last layer norm's output (N, C) for the tokens that were loaded."""
        count = batch * length
        # Whoever changed the weights need not say so: they are rounded anew each time.
        self.backend.cast(self._weights, self.cast_weights)
        stream, normed = self.stream[:count], self.normed[:count]
        self.embedding.forward(self.ids[:count], length, stream, step.rng)
        for block in self.blocks:
            block.forward(stream, batch, step.rng)
            step.pulse()
        self.norm.forward(stream, normed)
        return normed

    def _load(self, host: Array, buffer: Array, *, ordered: bool = False) -> Array:
        batch, length = host.shape
        assert batch <= self.batch_size, f"{batch} sequences, room for {self.batch_size}"
        assert length <= self.config.block_size, f"{length} tokens, room for {self.config}"
        return load_ids(host, self.vocab_size, buffer, self.backend, ordered=ordered)
