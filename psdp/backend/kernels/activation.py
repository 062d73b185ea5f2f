"""Activations, and their gradients."""

from __future__ import annotations

import math

import numpy as np
from numpy.polynomial import chebyshev

from psdp.backend.arrays import Arrays
from psdp.backend.costs import costs, moves
from psdp.params import Array

# gelu(x) = x / (1 + exp(x (GELU_LINEAR + GELU_CUBIC x^2))): the tanh form of GPT-2, since
# (1 + tanh u) / 2 is the logistic function of 2 u with u = sqrt(2 / pi) (x + 0.044715 x^3).
GELU_LINEAR = -2.0 * math.sqrt(2.0 / math.pi)
GELU_CUBIC = 0.044715 * GELU_LINEAR

# erfc(z) = exp(-z^2) f(u) to 1e-15, with a polynomial f of u, which is t = 1 / (1 + z / 2) brought
# to -1 ... 1: -1 at FARTHEST, beyond which erfc is nothing beside 1, and 1 at 0.
_FARTHEST = 6.0
_HALF_RANGE = (1 - 1 / (1 + _FARTHEST / 2)) / 2


def _scaled_tail(u: float) -> float:
    """Return exp(z^2) erfc(z)."""
    z = 2 / (1 + _HALF_RANGE * (u - 1)) - 2
    return math.exp(z * z) * math.erfc(z)


_TAIL: tuple[float, ...] = tuple(
    chebyshev.cheb2poly(chebyshev.chebinterpolate(np.vectorize(_scaled_tail), 18)).tolist()
)
"""Its coefficients, the constant one first."""


class ActivationKernels(Arrays):
    """Gelu, relu, and relu squared; a backward pass makes the activation again, which is not
    kept."""

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
                s, slope = self._gelu_parts(xb)
                xp.multiply(dyb, slope, out=dyb)
                xp.multiply(xb, s, out=xb)

    def _gelu_parts(self, x: Array) -> tuple[Array, Array]:
        """Return s in scratch 1, with gelu(x) = x s, and gelu'(x) in scratch 2."""
        xp = self.xp
        square = xp.multiply(x, x, out=self.scratch(0, *x.shape))
        s = self._logistic(x, square)
        # gelu' = s + x s (s - 1) du/dx with u the exponent
        slope = xp.multiply(x, s, out=self.scratch(2, *x.shape))
        xp.multiply(square, 3 * GELU_CUBIC, out=square)
        xp.add(square, GELU_LINEAR, out=square)
        xp.multiply(slope, square, out=slope)
        xp.subtract(s, 1, out=square)
        xp.multiply(slope, square, out=slope)
        xp.add(slope, s, out=slope)
        return s, slope

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

    @costs(moves)
    def relu2(self, x: Array, y: Array) -> None:
        """Write max(x, 0)^2 to ``y``, both (N, C) (So et al. 2021, arXiv:2109.08668)."""
        for rows in self.blocks(*x.shape):
            self.xp.maximum(x[rows], 0, out=y[rows])
            self.xp.multiply(y[rows], y[rows], out=y[rows])

    @costs(moves)
    def relu2_backward(self, x: Array, dy: Array) -> None:
        """Multiply ``dy`` by 2 max(x, 0), and turn ``x`` into max(x, 0)^2; both (N, C)."""
        xp = self.xp
        for rows in self.blocks(*x.shape):
            xb, dyb = x[rows], dy[rows]
            xp.maximum(xb, 0, out=xb)
            xp.multiply(dyb, xb, out=dyb)
            xp.multiply(dyb, 2, out=dyb)
            xp.multiply(xb, xb, out=xb)

    @costs(moves)
    def gelu_erf(self, x: Array, y: Array) -> None:
        """Write x P(x) to ``y``, both (N, C), with P the normal distribution function: gelu as it
        is defined (arXiv:1606.08415)."""
        with np.errstate(over="ignore"):
            for rows in self.blocks(*x.shape):
                self.xp.multiply(x[rows], self._normal(x[rows])[0], out=y[rows])

    @costs(moves)
    def gelu_erf_backward(self, x: Array, dy: Array) -> None:
        """Multiply ``dy`` by its derivative, and turn ``x`` into x P(x); both (N, C)."""
        xp = self.xp
        with np.errstate(over="ignore"):
            for rows in self.blocks(*x.shape):
                xb, dyb = x[rows], dy[rows]
                below, slope = self._normal(xb)
                # (x P)' = P + x p with p the density
                xp.multiply(slope, xb, out=slope)
                xp.multiply(slope, 1 / math.sqrt(2 * math.pi), out=slope)
                xp.add(slope, below, out=slope)
                xp.multiply(dyb, slope, out=dyb)
                xp.multiply(xb, below, out=xb)

    def _normal(self, x: Array) -> tuple[Array, Array]:
        """Return the normal distribution function in scratch 0, and exp(-x^2 / 2) in scratch 1."""
        xp = self.xp
        u, bell, tail = (self.scratch(index, *x.shape) for index in range(3))
        xp.multiply(x, x, out=bell)
        xp.multiply(bell, -0.5, out=bell)
        xp.exp(bell, out=bell)
        xp.absolute(x, out=u)
        xp.multiply(u, math.sqrt(0.5), out=u)
        xp.minimum(u, _FARTHEST, out=u)
        xp.multiply(u, 0.5, out=u)
        xp.add(u, 1, out=u)
        xp.divide(1 / _HALF_RANGE, u, out=u)
        xp.add(u, 1 - 1 / _HALF_RANGE, out=u)
        xp.multiply(u, _TAIL[-1], out=tail)
        for coefficient in _TAIL[-2:0:-1]:
            xp.add(tail, coefficient, out=tail)
            xp.multiply(tail, u, out=tail)
        xp.add(tail, _TAIL[0], out=tail)
        xp.multiply(tail, bell, out=tail)
        # Half of that lies beyond |x|: it is P itself on the left, and what P lacks on the right.
        sign = xp.sign(x, out=u)
        xp.subtract(1, tail, out=tail)
        xp.multiply(tail, sign, out=tail)
        xp.add(tail, 1, out=tail)
        return xp.multiply(tail, 0.5, out=u), bell
