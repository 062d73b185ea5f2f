"""How a token knows its place: vectors added to its embedding, or queries and keys turned."""

from __future__ import annotations

import numpy as np

from psdp.backend import Backend
from psdp.config import ModelConfig, rotary_dims
from psdp.nn.layer import Layer
from psdp.params import Array

SINUSOIDS_BASE = 10000.0


def sinusoids(block_size: int, width: int) -> Array:
    """Return sines in the even and cosines in the odd channels, (block_size, width) float64.

    Wavelengths grow geometrically from 2 pi to 10000 * 2 pi (Vaswani et al. 2017,
    arXiv:1706.03762).
    """
    angles = _angles(block_size, (width + 1) // 2, width, SINUSOIDS_BASE)
    table = np.empty((block_size, width))
    table[:, 0::2] = np.sin(angles)
    table[:, 1::2] = np.cos(angles[:, : width // 2])
    return table


class Rotary(Layer, kind="rotary"):
    """Turn channel pairs (d, d + R/2) of the first R channels of queries and keys by an angle that
    grows with the position, so that their products depend on distances alone (Su et al. 2021,
    arXiv:2104.09864).

    Shapes: qkv, dqkv (N, 3C); the tables are (block_size, R / 2).
    """

    @classmethod
    def of(cls, config: ModelConfig, backend: Backend) -> Rotary | None:
        """Return that of a model, where positions are told that way."""
        turned = rotary_dims(config)
        if turned is None:
            return None
        return cls(config.block_size, turned, config.rope_theta, backend)

    def __init__(self, block_size: int, turned: int, theta: float, backend: Backend) -> None:
        self.backend = backend
        angles = _angles(block_size, turned // 2, turned, theta)
        self.cos, self.sin = backend.empty(*angles.shape), backend.empty(*angles.shape)
        backend.to_device(np.cos(angles), self.cos)
        backend.to_device(np.sin(angles), self.sin)

    def forward(self, qkv: Array, batch: int, heads: int, start: int = 0) -> None:
        """Turn queries and keys in place; their first position is ``start``."""
        rows = slice(start, start + len(qkv) // batch)
        self.backend.rotate(qkv, batch, heads, self.cos[rows], self.sin[rows], 1)

    def backward(self, dqkv: Array, batch: int, heads: int) -> None:
        """Turn the gradient back in place: the inverse of a rotation is its transpose."""
        rows = slice(len(dqkv) // batch)
        self.backend.rotate(dqkv, batch, heads, self.cos[rows], self.sin[rows], -1)


def _angles(block_size: int, pairs: int, width: int, base: float) -> Array:
    """Return position * base^(-2 pair / width), (block_size, pairs)."""
    frequencies = base ** (-2.0 * np.arange(pairs) / width)
    angles: Array = np.outer(np.arange(block_size), frequencies)
    return angles
