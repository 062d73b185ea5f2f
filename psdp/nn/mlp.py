"""The position-wise network of a block."""

from __future__ import annotations

import numpy as np

from psdp.config import ModelConfig, mlp_width
from psdp.nn.arena import Arena, Parameters
from psdp.nn.linear import Linear, ResidualLinear
from psdp.nn.parts import FeedForward
from psdp.params import Array, Init, ParamSpec


class MLP(FeedForward, kind="activation"):
    """y += activation(x U + b) W + c.

    Shapes: x, y (N, C); inside (N, mlp_width).
    """

    @staticmethod
    def specs(name: str, config: ModelConfig, up: Init, down: Init) -> list[ParamSpec]:
        narrow, wide = config.n_embd, mlp_width(config)
        return [
            *Linear.specs(f"{name}.up", narrow, wide, up, config.bias),
            *Linear.specs(f"{name}.down", wide, narrow, down, config.bias),
        ]

    def __init__(self, config: ModelConfig, parameters: Parameters, arena: Arena) -> None:
        self.backend = arena.backend
        self.up = Linear(parameters.under("up"), arena)
        self.down = ResidualLinear(config.dropout, parameters.under("down"), arena)
        self.activation, self.activation_backward = {
            "gelu": (arena.backend.gelu, arena.backend.gelu_backward),
            "gelu-erf": (arena.backend.gelu_erf, arena.backend.gelu_erf_backward),
            "relu": (arena.backend.relu, arena.backend.relu_backward),
            "relu2": (arena.backend.relu2, arena.backend.relu2_backward),
        }[config.activation]
        self.fused = config.activation == "gelu" and arena.backend.fuses_gelu
        wide = mlp_width(config)
        self.inner = arena.kept("mlp inner", arena.rows, wide)
        self.hidden = arena.scratch("mlp hidden", arena.rows, wide)
        if arena.training:
            self.dhidden = arena.scratch("wide", arena.rows, wide)

    def forward(self, x: Array, y: Array, rng: np.random.Generator | None) -> None:
        """Add the network's output to ``y``; keep what backward needs."""
        count = x.shape[0]
        inner, hidden = self.inner[:count], self.hidden[:count]
        if self.fused:
            self.up.forward_gelu(x, inner, hidden)
        else:
            self.up.forward(x, inner)
            self.activation(inner, hidden)
        self.down.forward(hidden, y, rng)

    def backward(self, x: Array, dy: Array, dx: Array) -> None:
        """Add the gradients of both layers to their views; write dL/dx to ``dx``."""
        count = x.shape[0]
        inner, dhidden = self.inner[:count], self.dhidden[:count]
        dbranch = self.down.backward(dy)
        self.down.linear.backward_input(dbranch, dhidden)
        # What the activation had made of inner was not kept: it comes again with its derivative.
        self.activation_backward(inner, dhidden)
        self.down.linear.backward_weights(inner, dbranch)
        self.up.backward(x, dhidden, dx)
