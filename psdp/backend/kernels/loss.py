"""Softmax and cross-entropy over a vocabulary."""

from __future__ import annotations

import numpy as np

from psdp.backend.arrays import Arrays
from psdp.backend.costs import costs, moves
from psdp.params import Array


class LossKernels(Arrays):
    """From logits to losses and their gradient, and what is counted of them."""

    @costs(moves)
    def cross_entropy(
        self,
        logits: Array,
        targets: Array,
        scale: float,
        losses: Array,
        smoothing: float = 0.0,
    ) -> None:
        """Write -log softmax(logits)[target] to ``losses``, ``scale`` times its gradient over
        ``logits``. With ``smoothing`` e it is (1 - e) times that, and e times the mean of
        -log softmax(logits) (Szegedy et al. 2016, arXiv:1512.00567).

        Shapes: logits (N, V); targets (N,) integers; losses (N,), nats.
        """
        xp, (count, width) = self.xp, logits.shape
        at = xp.arange(count) * width + targets
        flat = logits.reshape(-1)
        inverse_sums = self.scratch(0, count, 1)
        xp.max(logits, axis=1, keepdims=True, out=inverse_sums)
        xp.subtract(logits, inverse_sums, out=logits)
        losses[...] = flat[at]
        if smoothing:
            totals = self.scratch(1, count, 1)
            xp.matmul(logits, self.ones(width)[:, None], out=totals)
            losses *= 1 - smoothing
            losses += smoothing / width * totals[:, 0]
        xp.exp(logits, out=logits)
        xp.matmul(logits, self.ones(width)[:, None], out=inverse_sums)
        xp.subtract(xp.log(inverse_sums[:, 0]), losses, out=losses)
        xp.divide(scale, inverse_sums, out=inverse_sums)
        xp.multiply(logits, inverse_sums, out=logits)
        if smoothing:
            xp.subtract(logits, scale * smoothing / width, out=logits)
        flat[at] -= scale * (1 - smoothing)

    @costs(moves)
    def cap(self, logits: Array, limit: float) -> None:
        """Turn ``logits`` x (N, V) into limit tanh(x / limit)."""
        xp = self.xp
        for rows in self.blocks(*logits.shape):
            block = logits[rows]
            xp.multiply(block, 1 / limit, out=block)
            xp.tanh(block, out=block)
            xp.multiply(block, limit, out=block)

    @costs(moves)
    def cap_backward(self, capped: Array, limit: float, dlogits: Array) -> None:
        """Turn the gradient of what :meth:`cap` made, ``capped``, into that of what it was made of;
        both (N, V)."""
        xp = self.xp
        for rows in self.blocks(*capped.shape):
            slope = xp.multiply(capped[rows], 1 / limit, out=self.scratch(0, *capped[rows].shape))
            xp.multiply(slope, slope, out=slope)
            xp.subtract(1, slope, out=slope)
            xp.multiply(dlogits[rows], slope, out=dlogits[rows])

    @costs(moves)
    def scale_rows(self, x: Array, factors: Array) -> None:
        """Multiply each row of ``x`` (N, C) by its one of ``factors`` (N,)."""
        self.xp.multiply(x, factors[:, None], out=x)

    @costs(moves)
    def argmax(self, logits: Array, best: Array) -> None:
        """Write the index of the greatest of each row of ``logits`` (N, V) to ``best`` (N,)."""
        best[...] = logits.argmax(axis=1)

    @costs(moves)
    def add_total(self, x: Array, scale: float, out: Array) -> None:
        """Add ``scale`` times the sum of ``x`` (N,) to ``out`` (1,) float64."""
        out += scale * x.sum(dtype=np.float64)
