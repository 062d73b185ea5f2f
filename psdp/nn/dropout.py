"""Inverted dropout."""

from __future__ import annotations

from typing import Any

import numpy as np

from psdp.nn.arena import Arena
from psdp.nn.layer import Layer
from psdp.params import Array


class Dropout(Layer, kind="dropout"):
    """Zero each element with probability ``p`` and scale the others by 1 / (1 - p), so that the
    expectation stays and evaluation needs no change (Srivastava et al. 2014).

    Shapes: any; forward and backward take the same number of elements.
    """

    def __init__(self, p: float, size: int, arena: Arena) -> None:
        self.p, self.backend = p, arena.backend
        self._room = arena.backend.new_mask(size if p and arena.training else 0)
        self.mask: Any = None

    def draw(self, size: int, rng: np.random.Generator | None) -> Any:
        """Draw and return a mask of ``size`` elements; without ``rng`` everything passes: None."""
        self.mask = None
        if self.p and rng is not None:
            self.mask = self.backend.draw_mask(rng, self.p, self._room, size)
        return self.mask

    def forward(self, x: Array) -> None:
        """Multiply ``x`` by the mask that was drawn, in place."""
        if self.mask is not None:
            self.backend.drop(x, self.mask, x)

    def backward(self, dy: Array, dx: Array) -> Array:
        """Return dL/dx in the compute dtype: ``dx``, or ``dy`` itself where everything passed."""
        if self.mask is None:
            return self.backend.cast(dy, dx)
        self.backend.drop(dy, self.mask, dx)
        return dx
