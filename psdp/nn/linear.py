"""An affine map of the channels."""

from __future__ import annotations

from psdp.nn.arena import Arena, Parameters
from psdp.params import Array, Init, ParamSpec


class Linear:
    """y = x W + b. It keeps nothing: whoever owns x hands it back for the backward pass.

    Shapes: x (N, I); W (I, O); b (O,), or none; y (N, O).
    """

    @staticmethod
    def specs(name: str, inputs: int, outputs: int, init: Init, bias: bool) -> list[ParamSpec]:
        weight = ParamSpec(f"{name}.weight", (inputs, outputs), init, decay=True)
        if not bias:
            return [weight]
        return [weight, ParamSpec(f"{name}.bias", (outputs,), Init("zeros"), decay=False)]

    def __init__(self, parameters: Parameters, arena: Arena) -> None:
        self.parameters, self.backend = parameters, arena.backend
        self.weight = parameters.weight("weight")
        self.bias = parameters.optional_weight("bias")
        if arena.training:
            self.dweight = arena.scratch("weight gradient", *self.weight.shape)

    def forward(self, x: Array, y: Array) -> None:
        """Write x W + b to ``y``."""
        self.backend.xp.matmul(x, self.weight, out=y)
        if self.bias is not None:
            y += self.bias

    def backward(self, x: Array, dy: Array, dx: Array) -> None:
        """Add dL/dW and dL/db to their views; write dL/dx to ``dx``."""
        xp = self.backend.xp
        if self.bias is not None:
            self.backend.add_column_sums(dy, self.parameters.gradient("bias"))
        xp.matmul(x.T, dy, out=self.dweight)
        gradient = self.parameters.gradient("weight")
        gradient += self.dweight
        xp.matmul(dy, self.weight.T, out=dx)
