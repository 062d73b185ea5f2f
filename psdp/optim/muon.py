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

COEFFICIENTS = 3.4445, -4.7750, 2.0315
"""a, b and c of the quintic a x + b x^3 + c x^5 that Newton and Schulz iterate: the singular values
come to about 1, rather quickly than exactly."""
RUNS = 3, 2
"""Five iterations in all. Those of a run see the matrix through its Gram matrix alone, which is
made anew for the next run: rounding grows by 12 with each iteration that passes it on."""
EPS = 1e-7
"""The least norm that is divided by."""
RMS = 0.2
"""Of an update's elements, as AdamW's have it."""


@dataclass(frozen=True)
class MuonSettings(AdamSettings):
    """What Muon is told."""

    muon_momentum: float = setting(0.95, "decay of Muon's momentum", low=0, below=1)
    adamw_lr_ratio: float = setting(
        1.0, "under muon, the learning rate of all that is no matrix over --lr", low=0
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
        self._squares_of = tuple(backend.empty(square) for _ in range(4))

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
        w -= self._orthogonal(u, spare, lr * RMS * math.sqrt(max(w.shape)))

    def _orthogonal(self, u: Array, spare: Array, scale: float) -> Array:
        """Return ``u`` (I, O), whose singular values have all come near ``scale``, in one of the
        two."""
        backend, wide = self.backend, u.shape[0] <= u.shape[1]
        side = min(u.shape)
        squares = [flat[: side * side].reshape(side, side) for flat in self._squares_of]
        for number, iterations in enumerate(RUNS):
            gram = squares[0]
            backend.symmetric_matmul(u if wide else u.T, u.T if wide else u, gram)
            # To divide these, and not the matrix, saves passes over it.
            norm = np.maximum(np.sqrt(_diagonal(gram).sum()), EPS) if number == 0 else 1.0
            gram *= math.sqrt(COEFFICIENTS[2]) / (norm * norm)
            made = self._iterated(squares, iterations)
            made *= (scale if number else 1.0) / norm
            backend.matmul(made if wide else u, u if wide else made, spare)
            u, spare = spare, u
        return u

    def _iterated(self, squares: list[Array], iterations: int) -> Array:
        """Return what a matrix X comes to be multiplied by; ``squares`` (N, N) are
        G = sqrt(c) X X^T, which is overwritten, and room.

        An iteration multiplies X by P = a + b / sqrt(c) G + G G, and so G by P P. All of these are
        polynomials in the first G: they commute, and products of them are symmetric.
        """
        product, (constant, linear, square) = self.backend.symmetric_matmul, COEFFICIENTS
        gram, p, made, spare = squares
        for number in range(iterations):
            if number:
                product(p, p.T, spare)
                product(gram, spare, p)
                gram, p = p, gram
            # NumPy halves the work of a product with the transpose of the same array.
            product(gram, gram.T, p)
            np.multiply(gram, linear / math.sqrt(square), out=spare)
            p += spare
            diagonal = _diagonal(p)
            diagonal += constant
            if number:
                product(made, p, spare)
                made, spare = spare, made
            else:
                self.backend.copy(p, made)
        return made


def _diagonal(square: Array) -> Array:
    """Return the diagonal of a matrix (N, N), a view."""
    return square.reshape(-1)[:: len(square) + 1]


def _columns(spec: ParamSpec) -> Iterator[slice]:
    """Yield the columns of each linear map that lies in a matrix."""
    start = 0
    for width in spec.maps or (spec.shape[1],):
        yield slice(start, start + width)
        start += width


def _map_shapes(spec: ParamSpec) -> list[tuple[int, int]]:
    """Return the shape of each linear map that lies in a matrix."""
    return [(spec.shape[0], columns.stop - columns.start) for columns in _columns(spec)]
