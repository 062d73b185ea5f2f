"""Root mean square layer normalisation, of channels and of heads."""

from __future__ import annotations

from psdp.config import ModelConfig
from psdp.nn.arena import Arena, Parameters
from psdp.nn.layer import Layer
from psdp.nn.parts import Norm
from psdp.params import Array, Init, ParamSpec


class RMSNorm(Norm, kind="rms norm"):
    """Divide the channels by their root mean square, then scale (Zhang and Sennrich 2019,
    arXiv:1910.07467). It has no bias.

    Shapes: x, y (N, C); gain (C,).
    """

    @staticmethod
    def specs(name: str, width: int, bias: bool) -> list[ParamSpec]:
        return [ParamSpec(f"{name}.gain", (width,), Init("ones"), decay=False)]

    def __init__(self, eps: float, parameters: Parameters, arena: Arena) -> None:
        self.eps, self.parameters, self.backend = eps, parameters, arena.backend
        self.gain = parameters.weight("gain")
        self.normal = arena.kept("normal", arena.rows, self.gain.size)
        self.rstd = arena.kept("rstd", arena.rows, dtype=arena.backend.dtype)

    def forward(self, x: Array, y: Array) -> None:
        """Write the normalised and scaled ``x`` to ``y``; keep what backward needs."""
        normal, rstd = self.normal[: len(x)], self.rstd[: len(x)]
        self.backend.rms_norm(x, self.gain, self.eps, normal, rstd, y)

    def backward(self, dy: Array, dx: Array) -> None:
        """Add dL/dgain to its view; add dL/dx to ``dx``. ``dy`` is destroyed."""
        normal, rstd = self.normal[: len(dy)], self.rstd[: len(dy)]
        dgain = self.parameters.gradient("gain")
        self.backend.rms_norm_backward(dy, self.gain, normal, rstd, dx, dgain)


class HeadNorm(Layer, kind="qk norm"):
    """Divide the queries, or the keys, of each head by their root mean square, then scale, all
    heads alike: no product of the two outgrows softmax (Henry et al. 2020, arXiv:2010.04245; in
    this form in Qwen3, arXiv:2505.09388).

    Shapes: x, dx (N, C), a part of wider rows; gain (D,).
    """

    @staticmethod
    def specs(name: str, config: ModelConfig) -> list[ParamSpec]:
        size = config.n_embd // config.n_head
        return [ParamSpec(f"{name}.gain", (size,), Init("ones"), decay=False)]

    def __init__(self, config: ModelConfig, parameters: Parameters, arena: Arena) -> None:
        self.eps, self.parameters, self.backend = config.norm_eps, parameters, arena.backend
        self.gain = parameters.weight("gain")
        rows, size = arena.rows * config.n_head, self.gain.size
        self.normal = arena.kept("qk normal", rows, size)
        self.rstd = arena.kept("qk rstd", rows, dtype=arena.backend.dtype)
        self.before = arena.scratch("heads before", rows, size)
        self.after = arena.scratch("heads after", rows, size)

    def forward(self, x: Array) -> None:
        """Normalise ``x`` in place; keep what backward needs."""
        rows = x.size // self.gain.size
        before, after = self.before[:rows], self.after[:rows]
        self.backend.copy(x, before.reshape(x.shape))
        self.backend.rms_norm(
            before, self.gain, self.eps, self.normal[:rows], self.rstd[:rows], after
        )
        self.backend.copy(after.reshape(x.shape), x)

    def backward(self, dx: Array) -> None:
        """Add dL/dgain to its view; turn ``dx`` from the gradient of what was normalised into that
        of what it was before."""
        rows = dx.size // self.gain.size
        before, after = self.before[:rows], self.after[:rows]
        self.backend.copy(dx, after.reshape(dx.shape))
        self.backend.clear(before)
        dgain = self.parameters.gradient("gain")
        self.backend.rms_norm_backward(
            after, self.gain, self.normal[:rows], self.rstd[:rows], before, dgain
        )
        self.backend.copy(before.reshape(dx.shape), dx)
