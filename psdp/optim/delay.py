"""Correcting a gradient for the updates that it has missed."""

from __future__ import annotations

import numpy as np

from psdp.backend import Backend
from psdp.optim.blocks import block_size, blocks
from psdp.params import Array

STRENGTH, DECAY, EPS = 2.0, 0.95, 1e-7
"""Of the paper, for its adaptive form."""


class DelayCompensation:
    """g += strength / sqrt(mean of g^2 + eps) * g^2 * (w - w_then), element by element.

    DC-ASGD (Zheng et al. 2016, arXiv:1609.08326), the adaptive form: a first-order step from the
    gradient at the weights that it was computed on to that at the weights of now, with the
    gradient's own square for the Hessian. The running mean starts afresh with each start of a run.

    Args:
        size: elements (S,) of the shard.
    """

    def __init__(self, size: int, backend: Backend) -> None:
        self._mean_square = backend.zeros(size)
        self._block_size = block_size(backend.dtype, backend.name)
        self._square = backend.empty(min(size, self._block_size))
        self._moved = backend.empty(self._square.size)

    def correct(self, gradient: Array, weights: Array, weights_then: Array) -> None:
        """Correct ``gradient`` (S,) in place, given the weights (S,) now and then."""
        for span in blocks(0, gradient.size, self._block_size):
            g, mean = gradient[span], self._mean_square[span]
            square, moved = self._square[: g.size], self._moved[: g.size]
            np.multiply(g, g, out=square)
            np.multiply(mean, DECAY / (1 - DECAY), out=mean)
            np.add(mean, square, out=mean)
            np.multiply(mean, 1 - DECAY, out=mean)
            np.subtract(weights[span], weights_then[span], out=moved)
            np.multiply(moved, square, out=moved)
            np.add(mean, EPS, out=square)
            np.sqrt(square, out=square)
            np.divide(moved, square, out=moved)
            np.multiply(moved, STRENGTH, out=moved)
            np.add(g, moved, out=g)
