"""Muon (Jordan et al. 2024, kellerjordan.github.io/posts/muon), scaled as Liu et al. 2025
(arXiv:2502.16982) do, so that it takes the learning rates and the weight decay of AdamW."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np

from psdp.backend import Backend, Scalar
from psdp.fields import setting
from psdp.optim.adam import AdamSettings, AdamW
from psdp.params import Array, ParamSpec, Part

ITERATIONS = 5
"""Of Newton and Schulz."""
COEFFICIENTS = 3.4445, -4.7750, 2.0315
"""Of their quintic: the singular values come to about 1, rather quickly than exactly."""
EPS = 1e-7
"""The least norm that is divided by."""
RMS = 0.2
"""Of an update's elements, as AdamW's have it."""


@dataclass(frozen=True)
class MuonSettings(AdamSettings):
    """What Muon is told."""

    muon_momentum: float = setting(0.95, "decay of Muon's momentum", low=0, below=1)
    adamw_lr_ratio: float = setting(
        1.0, "of what is no matrix under muon, AdamW's: its learning rate over --lr", low=0
    )


class Muon(AdamW):
    """Matrices of linear maps follow their momentum made orthogonal, all else is AdamW's.

    Of a matrix (I, O) with momentum m = mu m + (1 - mu) g, and u = (1 - mu) g + mu m (Nesterov's):
    w -= lr * 0.2 sqrt(max(I, O)) * orthogonal(u). Maps that lie side by side in one parameter are
    made orthogonal each for itself. ``exp_avg`` holds the momentum of matrices, of which
    ``exp_avg_sq`` stays zero.
    """

    name = "muon"
    multiplies = True
    settings_type = MuonSettings
    defaults = MappingProxyType({"lr": 1e-2, "weight_decay": 0.1})

    @classmethod
    def needs_whole(cls, spec: ParamSpec) -> bool:
        return spec.matrix

    def __init__(self, settings: MuonSettings, part: Part, backend: Backend) -> None:
        super().__init__(settings, part, backend)
        self._decay = settings.weight_decay
        self._momentum, self._ratio = settings.muon_momentum, settings.adamw_lr_ratio
        maps = [shape for piece in self._whole for shape in _map_shapes(piece.spec)]
        largest = max((math.prod(shape) for shape in maps), default=0)
        square = max((min(shape) for shape in maps), default=0) ** 2
        self._matrices_of = backend.empty(largest), backend.empty(largest)
        self._squares_of = backend.empty(square), backend.empty(square)

    def step(
        self,
        weights: Array,
        gradient: Array,
        lr: float,
        scale: Scalar = 1.0,
        clip_value: float = 0.0,
    ) -> None:
        super().step(weights, gradient, lr * self._ratio, scale, clip_value)
        mu = self._momentum
        for piece, w, g in self._matrices(weights, gradient, scale, clip_value):
            momentum = self._state["exp_avg"][piece.span].reshape(w.shape)
            g *= 1.0 - mu
            momentum *= mu
            momentum += g
            if piece.spec.decay:
                w *= 1.0 - lr * self._decay
            for columns in _columns(piece.spec):
                self._follow(w[:, columns], g[:, columns], momentum[:, columns], lr)

    def _follow(self, w: Array, g: Array, momentum: Array, lr: float) -> None:
        """Move the matrix of one map."""
        u, spare = (flat[: w.size].reshape(w.shape) for flat in self._matrices_of)
        np.multiply(momentum, self._momentum, out=u)
        u += g
        made = self._orthogonal(u, spare)
        made *= lr * RMS * math.sqrt(max(w.shape))
        w -= made

    def _orthogonal(self, u: Array, spare: Array) -> Array:
        """Return ``u`` (I, O), whose singular values have all come near 1, in one of the two."""
        backend, (first, second, third) = self.backend, COEFFICIENTS
        side, wide = min(u.shape), u.shape[0] <= u.shape[1]
        gram, squared = (flat[: side * side].reshape(side, side) for flat in self._squares_of)
        np.multiply(u, u, out=spare)
        u /= np.maximum(np.sqrt(spare.sum()), EPS)
        for _ in range(ITERATIONS):
            backend.matmul(u if wide else u.T, u.T if wide else u, gram)
            backend.matmul(gram, gram, squared)
            gram *= second
            squared *= third
            gram += squared
            gram.reshape(-1)[:: side + 1] += first
            backend.matmul(gram if wide else u, u if wide else gram, spare)
            u, spare = spare, u
        return u


def _columns(spec: ParamSpec) -> Iterator[slice]:
    """Yield the columns of each linear map that lies in a matrix."""
    start = 0
    for width in spec.maps or (spec.shape[1],):
        yield slice(start, start + width)
        start += width


def _map_shapes(spec: ParamSpec) -> list[tuple[int, int]]:
    """Return the shape of each linear map that lies in a matrix."""
    return [(spec.shape[0], columns.stop - columns.start) for columns in _columns(spec)]
