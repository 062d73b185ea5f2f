"""Muon (Jordan et al. 2024, kellerjordan.github.io/posts/muon), scaled as Liu et al. 2025
(arXiv:2502.16982) do, so that it takes the learning rates and the weight decay of AdamW."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np

from psdp.backend import Backend, Scalar
from psdp.fields import setting
from psdp.optim.adam import AdamSettings, AdamW
from psdp.params import Array, ParamSpec, Part, Piece

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
NARROW = 512
"""Matrices with a side below it are shared out among threads, each whole: their products are too
small to be worth dividing. Of a larger one each product is divided, so room for one is enough."""


@dataclass(frozen=True)
class MuonSettings(AdamSettings):
    """What Muon is told."""

    muon_momentum: float = setting(0.95, "decay of Muon's momentum", low=0, below=1)
    adamw_lr_ratio: float = setting(
        1.0, "under muon, the learning rate of all that is no matrix over --lr", low=0
    )


@dataclass(frozen=True)
class _Room:
    """What a thread computes in: vectors as long as the largest parameter, and as long as the
    square of the longest side that a matrix has to iterate on."""

    gradient: Array
    matrices: tuple[Array, ...]
    squares: tuple[Array, ...]

    @classmethod
    def of(cls, pieces: Sequence[Piece], backend: Backend) -> _Room:
        """Return room for any of these parameters."""
        size = max((piece.spec.size for piece in pieces), default=0)
        square = max((_side(piece.spec) for piece in pieces), default=0) ** 2
        matrices = tuple(backend.empty(size) for _ in range(2))
        squares = tuple(backend.empty(square) for _ in range(4))
        return cls(backend.empty(size), matrices, squares)


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
        narrow = [piece for piece in self._whole if _side(piece.spec) < NARROW]
        self._wide = [piece for piece in self._whole if _side(piece.spec) >= NARROW]
        # The largest first: small ones fill the gaps at the end.
        self._narrow = sorted(narrow, key=lambda piece: piece.spec.size, reverse=True)
        others = min(backend.lanes, len(narrow)) - 1
        self._rooms = [_Room.of(some, backend) for some in (self._whole, *[narrow] * others)]

    def step(
        self,
        weights: Array,
        gradient: Array,
        lr: float,
        scale: Scalar = 1.0,
        clip_value: float = 0.0,
    ) -> None:
        super().step(weights, gradient, lr * self._ratio, scale, clip_value)

        def follow(lane: int, piece: Piece) -> None:
            room = self._rooms[lane]
            own = room.gradient, room.matrices[0]
            w, g = self._matrix(piece, weights, gradient, scale, clip_value, *own)
            self._follow(piece, w, g, lr, room)

        for piece in self._wide:
            follow(0, piece)
        self.backend.side_by_side(follow, self._narrow)

    def _follow(self, piece: Piece, w: Array, g: Array, lr: float, room: _Room) -> None:
        """Move a parameter; its gradient may be the room's own."""
        mu, momentum = self._momentum, self._state["exp_avg"][piece.span].reshape(w.shape)
        g = np.multiply(g, 1.0 - mu, out=room.gradient[: w.size].reshape(w.shape))
        momentum *= mu
        momentum += g
        if piece.spec.decay:
            w *= 1.0 - lr * self._decay
        for columns in _columns(piece.spec):
            one = w[:, columns]
            u, spare = (vector[: one.size].reshape(one.shape) for vector in room.matrices)
            np.multiply(momentum[:, columns], mu, out=u)
            u += g[:, columns]
            scale = lr * RMS * math.sqrt(max(one.shape))
            one -= self._orthogonal(u, spare, room.squares, scale)

    def _orthogonal(self, u: Array, spare: Array, room: tuple[Array, ...], scale: float) -> Array:
        """Return ``u`` (I, O), whose singular values have all come near ``scale``, in one of the
        two."""
        backend, wide = self.backend, u.shape[0] <= u.shape[1]
        side = min(u.shape)
        squares = [flat[: side * side].reshape(side, side) for flat in room]
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


def _side(spec: ParamSpec) -> int:
    """Return the shorter side of a matrix; the longest of them, where several lie side by side."""
    return min(spec.shape[0], max(spec.maps, default=spec.shape[1]))
