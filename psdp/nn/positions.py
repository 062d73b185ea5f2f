"""How a token knows its place: vectors added to its embedding, or queries and keys turned."""

from __future__ import annotations

import numpy as np

from psdp.backend import Backend
from psdp.params import Array

WAVELENGTH_BASE = 10000.0


def sinusoids(block_size: int, width: int) -> Array:
    """Return sines in the even and cosines in the odd channels, (block_size, width) float64.

    Wavelengths grow geometrically from 2 pi to 10000 * 2 pi (Vaswani et al. 2017,
    arXiv:1706.03762).
    """
    angles = _angles(block_size, (width + 1) // 2, width)
    table = np.empty((block_size, width))
    table[:, 0::2] = np.sin(angles)
    table[:, 1::2] = np.cos(angles[:, : width // 2])
    return table


class Rotary:
    """Turn channel pairs (d, d + D/2) of queries and keys by an angle that grows with the position,
    so that their products depend on distances alone (Su et al. 2021, arXiv:2104.09864).

    Shapes: x (B, H, T, D), a strided view is fine; the tables are (block_size, D / 2).
    """

    def __init__(self, block_size: int, head_size: int, backend: Backend) -> None:
        self.backend = backend
        angles = _angles(block_size, head_size // 2, head_size)
        self.cos, self.sin = backend.empty(*angles.shape), backend.empty(*angles.shape)
        backend.to_device(np.cos(angles), self.cos)
        backend.to_device(np.sin(angles), self.sin)

    def forward(self, x: Array, start: int = 0) -> None:
        """Turn ``x`` in place; its first position is ``start``."""
        rows = slice(start, start + x.shape[2])
        self._turn(x, self.cos[rows], self.sin[rows])

    def backward(self, dx: Array) -> None:
        """Turn the gradient back in place: the inverse of a rotation is its transpose."""
        rows = slice(dx.shape[2])
        self._turn(dx, self.cos[rows], -self.sin[rows])

    def _turn(self, x: Array, cos: Array, sin: Array) -> None:
        multiply, half = self.backend.xp.multiply, x.shape[3] // 2
        for sequence in x:
            first, second = sequence[..., :half], sequence[..., half:]
            shape = first.shape
            from_first = multiply(first, sin, out=self.backend.scratch(0, *shape))
            from_second = multiply(second, sin, out=self.backend.scratch(1, *shape))
            first *= cos
            first -= from_second
            second *= cos
            second += from_first


def _angles(block_size: int, pairs: int, width: int) -> Array:
    """Return position * 10000^(-2 pair / width), (block_size, pairs)."""
    frequencies = WAVELENGTH_BASE ** (-2.0 * np.arange(pairs) / width)
    angles: Array = np.outer(np.arange(block_size), frequencies)
    return angles
