"""Activations of one half of the channels that gate the other half (Shazeer 2020,
arXiv:2002.05202), and their gradients.

Shapes: x (N, 2W), rows of [gate | values]; y, dy (N, W).
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from psdp.backend.costs import costs, moves
from psdp.backend.kernels.activation import ActivationKernels
from psdp.params import Array

Slope = Callable[[Array], tuple[Array, Array]]
"""Returns s with activation(g) = g s, and the activation's derivative, both in scratch memory."""


class GatedKernels(ActivationKernels):
    """A backward pass has the activation again, which is not kept, and needs no further memory: x
    becomes its own gradient."""

    @costs(moves)
    def swiglu(self, x: Array, y: Array) -> None:
        """Write silu(gate) * values to ``y``, with silu(g) = g / (1 + exp(-g))."""
        self._gate(x, y, self._silu_parts)

    @costs(moves)
    def swiglu_backward(self, x: Array, dy: Array) -> None:
        """Turn ``x`` into dL/dx, and ``dy`` into what :meth:`swiglu` made of ``x``."""
        self._gate_backward(x, dy, self._silu_parts)

    @costs(moves)
    def geglu(self, x: Array, y: Array) -> None:
        """Write gelu(gate) * values to ``y``, in GPT-2's form."""
        self._gate(x, y, self._gelu_parts)

    @costs(moves)
    def geglu_backward(self, x: Array, dy: Array) -> None:
        """Turn ``x`` into dL/dx, and ``dy`` into what :meth:`geglu` made of ``x``."""
        self._gate_backward(x, dy, self._gelu_parts)

    def _gate(self, x: Array, y: Array, parts: Slope) -> None:
        width = y.shape[1]
        with np.errstate(over="ignore"):
            for rows in self.blocks(*y.shape):
                gate, values = x[rows, :width], x[rows, width:]
                s, _ = parts(gate)
                self.xp.multiply(s, gate, out=s)
                self.xp.multiply(s, values, out=y[rows])

    def _gate_backward(self, x: Array, dy: Array, parts: Slope) -> None:
        multiply, width = self.xp.multiply, dy.shape[1]
        with np.errstate(over="ignore"):
            for rows in self.blocks(*dy.shape):
                gate, values, dyb = x[rows, :width], x[rows, width:], dy[rows]
                s, slope = parts(gate)
                activated = multiply(s, gate, out=s)
                multiply(slope, values, out=slope)
                multiply(slope, dyb, out=gate)
                y = multiply(activated, values, out=slope)
                multiply(activated, dyb, out=values)
                self.copy(y, dyb)

    def _silu_parts(self, gate: Array) -> tuple[Array, Array]:
        """See :data:`Slope`."""
        xp, s, slope = self.xp, self.scratch(1, *gate.shape), self.scratch(2, *gate.shape)
        xp.negative(gate, out=s)
        xp.exp(s, out=s)
        xp.add(s, 1, out=s)
        xp.reciprocal(s, out=s)
        xp.subtract(1, s, out=slope)
        xp.multiply(slope, gate, out=slope)
        xp.add(slope, 1, out=slope)
        xp.multiply(slope, s, out=slope)
        return s, slope
