"""Layer normalisation."""

from __future__ import annotations

from psdp.nn.arena import Arena, Parameters
from psdp.nn.parts import Norm
from psdp.params import Array, Init, ParamSpec


class LayerNorm(Norm, kind="layer norm"):
    """Normalise the channels, then scale and shift (Ba et al. 2016, arXiv:1607.06450).

    Shapes: x, y (N, C); gain (C,); bias (C,), or none.
    """

    @staticmethod
    def specs(name: str, width: int, bias: bool) -> list[ParamSpec]:
        gain = ParamSpec(f"{name}.gain", (width,), Init("ones"), decay=False)
        if not bias:
            return [gain]
        return [gain, ParamSpec(f"{name}.bias", (width,), Init("zeros"), decay=False)]

    def __init__(self, eps: float, parameters: Parameters, arena: Arena) -> None:
        self.eps, self.parameters, self.backend = eps, parameters, arena.backend
        self.gain = parameters.weight("gain")
        self.bias = parameters.optional_weight("bias")
        self.normal = arena.kept("normal", arena.rows, self.gain.size)
        self.rstd = arena.kept("rstd", arena.rows, dtype=arena.backend.dtype)

    def forward(self, x: Array, y: Array) -> None:
        """Write the normalised, scaled and shifted ``x`` to ``y``; keep what backward needs."""
        normal, rstd = self.normal[: len(x)], self.rstd[: len(x)]
        self.backend.layer_norm(x, self.gain, self.bias, self.eps, normal, rstd, y)

    def backward(self, dy: Array, dx: Array) -> None:
        """Add dL/dgain and dL/dbias to their views; add dL/dx to ``dx``. ``dy`` is destroyed."""
        count, has_bias = dy.shape[0], self.bias is not None
        self.backend.layer_norm_backward(
            dy,
            self.gain,
            self.normal[:count],
            self.rstd[:count],
            dx,
            self.parameters.gradient("gain"),
            self.parameters.gradient("bias") if has_bias else None,
        )
