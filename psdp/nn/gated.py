"""The position-wise network of a block with a gate."""

from __future__ import annotations

import numpy as np

from psdp.config import ModelConfig, mlp_width
from psdp.nn.arena import Arena, Parameters
from psdp.nn.linear import Linear, ResidualLinear
from psdp.nn.parts import FeedForward
from psdp.params import Array, Init, ParamSpec


class GatedMLP(FeedForward, kind="activation"):
    """y += (activation(x G + a) * (x U + b)) W + c (Shazeer 2020, arXiv:2002.05202), with G and U
    side by side in one matrix.

    Shapes: x, y (N, C); inside (N, 2 mlp_width), then (N, mlp_width).
    """

    @staticmethod
    def specs(name: str, config: ModelConfig, up: Init, down: Init) -> list[ParamSpec]:
        narrow, wide = config.n_embd, mlp_width(config)
        return [
            *Linear.specs(f"{name}.up", narrow, 2 * wide, up, config.bias, maps=(wide, wide)),
            *Linear.specs(f"{name}.down", wide, narrow, down, config.bias),
        ]

    def __init__(self, config: ModelConfig, parameters: Parameters, arena: Arena) -> None:
        self.up = Linear(parameters.under("up"), arena)
        self.down = ResidualLinear(config.dropout, parameters.under("down"), arena)
        self.gate, self.gate_backward = {
            "swiglu": (arena.backend.swiglu, arena.backend.swiglu_backward),
            "geglu": (arena.backend.geglu, arena.backend.geglu_backward),
        }[config.activation]
        wide = mlp_width(config)
        self.inner = arena.kept("mlp inner", arena.rows, 2 * wide)
        self.hidden = arena.scratch("mlp hidden", arena.rows, wide)

    def forward(self, x: Array, y: Array, rng: np.random.Generator | None) -> None:
        """Add the network's output to ``y``; keep what backward needs."""
        inner, hidden = self.inner[: len(x)], self.hidden[: len(x)]
        self.up.forward(x, inner)
        self.gate(inner, hidden)
        self.down.forward(hidden, y, rng)

    def backward(self, x: Array, dy: Array, dx: Array) -> None:
        """Add the gradients of both layers to their views; write dL/dx to ``dx``."""
        inner, hidden = self.inner[: len(x)], self.hidden[: len(x)]
        dbranch = self.down.backward(dy)
        self.down.linear.backward_input(dbranch, hidden)
        # What was inner becomes its gradient, and the gradient of hidden what hidden was.
        self.gate_backward(inner, hidden)
        self.down.linear.backward_weights(hidden, dbranch)
        self.up.backward(x, inner, dx)
