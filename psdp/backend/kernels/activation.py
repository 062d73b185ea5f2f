"""Activations, and their gradients."""

from __future__ import annotations

import math

import numpy as np

from psdp.backend.arrays import Arrays
from psdp.backend.costs import costs, moves
from psdp.params import Array

# gelu(x) = x / (1 + exp(x (GELU_LINEAR + GELU_CUBIC x^2))): the tanh form of GPT-2, since
# (1 + tanh u) / 2 is the logistic function of 2 u with u = sqrt(2 / pi) (x + 0.044715 x^3).
GELU_LINEAR = -2.0 * math.sqrt(2.0 / math.pi)
GELU_CUBIC = 0.044715 * GELU_LINEAR


class ActivationKernels(Arrays):
    """Gelu and relu; a backward pass makes the activation again, which is not kept."""

    @costs(moves)
    def gelu(self, x: Array, y: Array) -> None:
        """Write gelu(x) to ``y``, both (N, C); the form is GPT-2's tanh (arXiv:1606.08415)."""
        with np.errstate(over="ignore"):
            for rows in self.blocks(*x.shape):
                xb, yb = x[rows], y[rows]
                square = self.xp.multiply(xb, xb, out=self.scratch(0, *xb.shape))
                self.xp.multiply(xb, self._logistic(xb, square), out=yb)

    @costs(moves)
    def gelu_backward(self, x: Array, dy: Array) -> None:
        """Multiply ``dy`` by gelu'(x), and turn ``x`` into gelu(x); both (N, C)."""
        xp = self.xp
        with np.errstate(over="ignore"):
            for rows in self.blocks(*x.shape):
                xb, dyb = x[rows], dy[rows]
                square = xp.multiply(xb, xb, out=self.scratch(0, *xb.shape))
                s = self._logistic(xb, square)
                # gelu' = s + x s (s - 1) du/dx with u the exponent
                slope = xp.multiply(xb, s, out=self.scratch(2, *xb.shape))
                xp.multiply(square, 3 * GELU_CUBIC, out=square)
                xp.add(square, GELU_LINEAR, out=square)
                xp.multiply(slope, square, out=slope)
                xp.subtract(s, 1, out=square)
                xp.multiply(slope, square, out=slope)
                xp.add(slope, s, out=slope)
                xp.multiply(dyb, slope, out=dyb)
                xp.multiply(xb, s, out=xb)

    def _logistic(self, x: Array, square: Array) -> Array:
        """Return 1 / (1 + exp(x (linear + cubic x^2))) in scratch 1, given x^2.

        Where x << 0 the exponential is infinite and the result its right limit, 0.
        """
        xp, s = self.xp, self.scratch(1, *x.shape)
        xp.multiply(square, GELU_CUBIC, out=s)
        xp.add(s, GELU_LINEAR, out=s)
        xp.multiply(s, x, out=s)
        xp.exp(s, out=s)
        xp.add(s, 1, out=s)
        return xp.reciprocal(s, out=s)  # type: ignore[no-any-return]

    @costs(moves)
    def relu(self, x: Array, y: Array) -> None:
        """Write max(x, 0) to ``y``, both (N, C)."""
        self.xp.maximum(x, 0, out=y)

    @costs(moves)
    def relu_backward(self, x: Array, dy: Array) -> None:
        """Set ``dy`` to 0 where x <= 0, and turn ``x`` into max(x, 0); both (N, C)."""
        self.xp.maximum(x, 0, out=x)
        for rows in self.blocks(*x.shape):
            passed = self.scratch(0, *x[rows].shape)
            self.xp.sign(x[rows], out=passed)
            self.xp.multiply(dy[rows], passed, out=dy[rows])
