"""Dropout: masks, and what they are multiplied by."""

from __future__ import annotations

from typing import Any

import numpy as np

from psdp.backend.arrays import Arrays
from psdp.backend.costs import costs, moves
from psdp.params import Array


class DropoutKernels(Arrays):
    """A backend draws its masks its own way; it may draw them again instead of keeping them."""

    @costs(moves)
    def draw_mask(self, rng: np.random.Generator, p: float, room: Any, size: int) -> Any:
        """Return a mask of ``size`` elements, 0 (probability ``p``) or 1 / (1 - p), drawn in the
        room that :meth:`new_mask` made for it."""
        raise NotImplementedError

    @costs(moves)
    def drop(self, x: Array, mask: Any, out: Array) -> None:
        """Write ``x`` times a mask of as many elements to ``out``, which may be ``x``."""
        self.xp.multiply(x, mask.reshape(x.shape), out=out)

    @costs(moves)
    def add_dropped(self, x: Array, mask: Any, out: Array) -> None:
        """Add ``x`` times a mask of as many elements to ``out``; ``x`` may be destroyed."""
        self.drop(x, mask, x)
        out += x
