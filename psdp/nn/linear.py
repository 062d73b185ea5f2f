"""An affine map of the channels."""

from __future__ import annotations

import numpy as np

from psdp.nn.arena import Arena, Parameters
from psdp.nn.dropout import Dropout
from psdp.nn.layer import Layer
from psdp.params import Array, Init, ParamSpec


class Linear(Layer, kind="linear"):
    """y = x W + b. It keeps nothing: whoever owns x hands it back for the backward pass.

    Shapes: x (N, I); W (I, O); b (O,), or none; y (N, O).
    """

    @staticmethod
    def specs(
        name: str, inputs: int, outputs: int, init: Init, bias: bool, maps: tuple[int, ...] = ()
    ) -> list[ParamSpec]:
        weight = ParamSpec(f"{name}.weight", (inputs, outputs), init, decay=True, maps=maps)
        if not bias:
            return [weight]
        return [weight, ParamSpec(f"{name}.bias", (outputs,), Init("zeros"), decay=False)]

    def __init__(self, parameters: Parameters, arena: Arena) -> None:
        self.parameters, self.backend = parameters, arena.backend
        self.weight = parameters.cast_weight("weight")
        self.bias = parameters.optional_cast_weight("bias")

    def forward(self, x: Array, y: Array) -> None:
        """Write x W + b to ``y``."""
        self.backend.affine(x, self.weight, self.bias, y)

    def forward_gelu(self, x: Array, inner: Array, y: Array) -> None:
        """Write x W + b to ``inner``, and gelu of that to ``y``."""
        self.backend.affine_gelu(x, self.weight, self.bias, inner, y)

    def backward(self, x: Array, dy: Array, dx: Array) -> None:
        """Add dL/dW and dL/db to their views; write dL/dx to ``dx``."""
        self.backward_weights(x, dy)
        self.backward_input(dy, dx)

    def backward_input(self, dy: Array, dx: Array) -> None:
        """Write dL/dx to ``dx``."""
        self.backend.matmul(dy, self.weight.T, dx)

    def backward_weights(self, x: Array, dy: Array) -> None:
        """Add dL/dW and dL/db to their views."""
        if self.bias is not None:
            self.backend.add_column_sums(dy, self.parameters.gradient("bias"))
        self.backend.add_matmul(x.T, dy, self.parameters.gradient("weight"))


class ResidualLinear(Layer, kind="linear"):
    """y += dropout(x W + b), the end of a branch; without dropout the product adds to y itself.

    Shapes: x (N, I); W (I, O); b (O,), or none; y, the residual stream (N, O).
    """

    def __init__(self, p: float, parameters: Parameters, arena: Arena) -> None:
        self.linear = Linear(parameters, arena)
        self.bias = parameters.optional_weight("bias")  # in the type of the stream
        width = self.linear.weight.shape[1]
        self.dropout = Dropout(p, arena.rows * width, arena)
        self.branch = arena.scratch("branch", arena.rows, width)

    def forward(self, x: Array, y: Array, rng: np.random.Generator | None) -> None:
        """Add to ``y``; keep the dropout mask."""
        linear = self.linear
        if self.dropout.draw(y.size, rng) is None:
            linear.backend.add_affine(x, linear.weight, self.bias, y)
        else:
            branch = self.branch[: len(y)]
            linear.forward(x, branch)
            linear.backend.add_dropped(branch, self.dropout.mask, y)

    def backward(self, dy: Array) -> Array:
        """Return the gradient of x W + b, for the linear layer to go on with; ``dy`` stays."""
        return self.dropout.backward(dy, self.branch[: len(dy)])
