"""The position-wise network of a block."""

from __future__ import annotations

from psdp.config import ModelConfig
from psdp.nn.arena import Arena, Parameters
from psdp.nn.linear import Linear
from psdp.params import Array, Init, ParamSpec

WIDENING = 4


class MLP:
    """y = activation(x U + b) W + c, four times as wide inside.

    Shapes: x, y (N, C); inside (N, 4C).
    """

    @staticmethod
    def specs(name: str, config: ModelConfig, up: Init, down: Init) -> list[ParamSpec]:
        narrow, wide = config.n_embd, WIDENING * config.n_embd
        return [
            *Linear.specs(f"{name}.up", narrow, wide, up, config.bias),
            *Linear.specs(f"{name}.down", wide, narrow, down, config.bias),
        ]

    def __init__(self, config: ModelConfig, parameters: Parameters, arena: Arena) -> None:
        self.backend = arena.backend
        self.up = Linear(parameters.under("up"), arena)
        self.down = Linear(parameters.under("down"), arena)
        kernels = {"gelu": arena.backend.gelu, "relu": arena.backend.relu}
        self.activation = kernels[config.activation]
        wide = WIDENING * config.n_embd
        self.slope = arena.kept("mlp slope", arena.rows, wide)
        self.hidden = arena.kept("mlp hidden", arena.rows, wide)
        if arena.training:
            self.dhidden = arena.scratch("wide", arena.rows, wide)

    def forward(self, x: Array, y: Array) -> None:
        """Write the network's output to ``y``; keep the activation and its derivative."""
        count = x.shape[0]
        slope, hidden = self.slope[:count], self.hidden[:count]
        self.up.forward(x, slope)
        self.activation(slope, hidden)
        self.down.forward(hidden, y)

    def backward(self, x: Array, dy: Array, dx: Array) -> None:
        """Add the gradients of both layers to their views; write dL/dx to ``dx``."""
        count = x.shape[0]
        slope, hidden, dhidden = self.slope[:count], self.hidden[:count], self.dhidden[:count]
        self.down.backward(hidden, dy, dhidden)
        dhidden *= slope
        self.up.backward(x, dhidden, dx)
