"""A Transformer block."""

from __future__ import annotations

import numpy as np

from psdp.config import ModelConfig
from psdp.nn.arena import Arena, Parameters
from psdp.nn.attention import Attention
from psdp.nn.layer import Layer
from psdp.nn.parts import feed_forward_of, norm_of
from psdp.params import Array, Init, ParamSpec
from psdp.records.profile import OTHER


class Block(Layer, kind=OTHER):
    """x += attention(norm1(x)), then x += mlp(norm2(x)): pre-norm, as in GPT-2; or both at once,
    x += attention(norm1(x)) + mlp(norm2(x)), as in GPT-NeoX (arXiv:2204.06745).

    Shapes: x, dx (N, C), B sequences; both are updated in place.
    """

    @staticmethod
    def specs(name: str, config: ModelConfig, init: dict[str, Init]) -> list[ParamSpec]:
        norm, width = norm_of(config), config.n_embd
        return [
            *norm.specs(f"{name}.norm1", width, config.bias),
            *Attention.specs(f"{name}.attention", config, init["qkv"], init["out"]),
            *norm.specs(f"{name}.norm2", width, config.bias),
            *feed_forward_of(config).specs(f"{name}.mlp", config, init["up"], init["down"]),
        ]

    def __init__(
        self, config: ModelConfig, parameters: Parameters, arena: Arena, attention: Attention
    ) -> None:
        """``attention``: of the parameters under "attention", over what it may see."""
        norm, self.parallel = norm_of(config), config.parallel_residual
        self.norm1 = norm(config.norm_eps, parameters.under("norm1"), arena)
        self.attention = attention
        self.norm2 = norm(config.norm_eps, parameters.under("norm2"), arena)
        self.mlp = feed_forward_of(config)(config, parameters.under("mlp"), arena)
        self.normed1 = arena.kept("normed1", arena.rows, config.n_embd)
        self.normed2 = arena.kept("normed2", arena.rows, config.n_embd)
        if arena.training:
            self.dbranch = arena.scratch("dbranch", arena.rows, config.n_embd)
        if arena.training and self.parallel:
            self.dbranch2 = arena.scratch("second dbranch", arena.rows, config.n_embd)

    def forward(self, x: Array, batch: int, rng: np.random.Generator | None) -> None:
        """Add both branches to ``x``; keep what backward needs."""
        normed1, normed2 = self.normed1[: len(x)], self.normed2[: len(x)]
        self.norm1.forward(x, normed1)
        if self.parallel:
            self.norm2.forward(x, normed2)
        self.attention.forward(normed1, batch, x, rng)
        if not self.parallel:
            self.norm2.forward(x, normed2)
        self.mlp.forward(normed2, x, rng)

    def backward(self, batch: int, dx: Array) -> None:
        """Add the gradients of all layers to their views; turn ``dx`` into dL/d(input)."""
        count, dbranch = len(dx), self.dbranch[: len(dx)]
        self.mlp.backward(self.normed2[:count], dx, dbranch)
        if self.parallel:
            dattention = self.dbranch2[:count]
            self.attention.backward(self.normed1[:count], batch, dx, dattention)
            self.norm2.backward(dbranch, dx)
            self.norm1.backward(dattention, dx)
        else:
            self.norm2.backward(dbranch, dx)
            self.attention.backward(self.normed1[:count], batch, dx, dbranch)
            self.norm1.backward(dbranch, dx)
