"""The kernels every layer is made of, written once against an array module ``xp``.

Each kernel writes into arrays that it is given and walks them in blocks of rows that stay in the
cache, so a chain of element-wise operations reads and writes main memory once. Sums along rows and
columns are products with a vector of ones: BLAS runs them several times faster than ``sum``.
Nothing here knows of layers, parameters or the shape of a model.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]

LAYER_NORM_EPS = 1e-5

# gelu(x) = x / (1 + exp(x (GELU_LINEAR + GELU_CUBIC x^2))): the tanh form of GPT-2, since
# (1 + tanh u) / 2 is the logistic function of 2 u with u = sqrt(2 / pi) (x + 0.044715 x^3).
GELU_LINEAR = -2.0 * math.sqrt(2.0 / math.pi)
GELU_CUBIC = 0.044715 * GELU_LINEAR


class Backend:
    """An array module, a dtype, and kernels that work in place.

    A subclass sets ``xp`` and the sizes of blocks, and overrides what its device does better.

    Attributes:
        name: "cpu" or "gpu".
        xp: the array module, numpy or cupy.
        dtype: of weights, gradients and activations.
        tile: elements of one operand that a chain of kernels handles at a time.
        query_block: queries that causal attention handles at a time.
    """

    name: str
    xp: Any
    tile: int
    query_block: int

    def __init__(self, dtype: str) -> None:
        self.dtype = np.dtype(dtype)
        self._scratch: dict[int, Array] = {}
        self._ones = self.empty(0)

    # Arrays ---------------------------------------------------------------------------------

    def empty(self, *shape: int, dtype: Any = None) -> Array:
        """Return an uninitialised array on the device, of ``self.dtype`` unless told."""
        array: Array = self.xp.empty(shape, self.dtype if dtype is None else dtype)
        return array

    def zeros(self, *shape: int, dtype: Any = None) -> Array:
        """Return zeros on the device, of ``self.dtype`` unless told."""
        array: Array = self.xp.zeros(shape, self.dtype if dtype is None else dtype)
        return array

    def scratch(self, index: int, *shape: int) -> Array:
        """Return uninitialised memory number ``index``, valid until its number is asked for again.

        It grows to the largest size ever asked for, so a steady state allocates nothing.
        """
        size = math.prod(shape)
        flat = self._scratch.get(index)
        if flat is None or flat.size < size:
            flat = self._scratch[index] = self.empty(size)
        return flat[:size].reshape(shape)

    def ones(self, size: int) -> Array:
        """Return a vector of ones (size,); it is shared, so it must not be written."""
        if self._ones.size < size:
            self._ones = self.empty(size)
            self._ones[...] = 1
        return self._ones[:size]

    def blocks(self, rows: int, width: int) -> Iterator[slice]:
        """Cut ``rows`` rows of ``width`` elements into slices of at most a tile each."""
        step = max(1, self.tile // width)
        for start in range(0, rows, step):
            yield slice(start, min(start + step, rows))

    def to_device(self, host: Array, out: Array) -> None:
        """Copy a NumPy array into a device array of the same shape."""
        raise NotImplementedError

    def to_host(self, device: Array, out: Array) -> None:
        """Copy a device array into a NumPy array of the same shape; it is complete on return."""
        raise NotImplementedError

    def synchronize(self) -> None:
        """Return when the device has done everything asked of it so far."""
        raise NotImplementedError

    # Rows named by ids ----------------------------------------------------------------------

    def take_rows(self, table: Array, ids: Array, out: Array) -> None:
        """Write the rows ``ids`` (N,) of ``table`` (V, C) to ``out`` (N, C); ids must be valid."""
        raise NotImplementedError

    def add_rows(self, ids: Array, rows: Array, table: Array) -> None:
        """Add ``rows`` (N, C) to the rows ``ids`` (N,) of ``table`` (V, C); ids may repeat."""
        raise NotImplementedError

    # Sums -----------------------------------------------------------------------------------

    def add_column_sums(self, x: Array, out: Array) -> None:
        """Add the sum of the rows of ``x`` (N, C) to ``out`` (C,)."""
        sums = self.scratch(0, x.shape[1])
        self.xp.matmul(self.ones(x.shape[0]), x, out=sums)
        out += sums

    def row_dots(self, a: Array, b: Array, out: Array) -> None:
        """Write the dot products of the rows of ``a`` and ``b``, (..., C), to ``out`` (...)."""
        raise NotImplementedError

    # Activations ----------------------------------------------------------------------------

    def gelu(self, x: Array, y: Array) -> None:
        """Write gelu(x) to ``y`` and gelu'(x) over ``x``, both (N, C); the form is GPT-2's tanh.

        The derivative is taken here, while x and its exponential are in the cache, so the
        backward pass is one product. (Hendrycks and Gimpel 2016, arXiv:1606.08415.)
        """
        xp = self.xp
        # Where x << 0 the exponential is infinite and the logistic function its right limit, 0.
        with np.errstate(over="ignore"):
            for rows in self.blocks(*x.shape):
                xb, yb = x[rows], y[rows]
                square, s = self.scratch(0, *xb.shape), self.scratch(1, *xb.shape)
                xp.multiply(xb, xb, out=square)
                xp.multiply(square, GELU_CUBIC, out=s)
                xp.add(s, GELU_LINEAR, out=s)
                xp.multiply(s, xb, out=s)
                xp.exp(s, out=s)
                xp.add(s, 1, out=s)
                xp.reciprocal(s, out=s)
                xp.multiply(xb, s, out=yb)
                # gelu' = s + x s (1 - s) 2 du/dx
                xp.multiply(square, -3 * GELU_CUBIC, out=square)
                xp.subtract(square, GELU_LINEAR, out=square)
                xp.multiply(square, yb, out=square)
                xp.subtract(1, s, out=xb)
                xp.multiply(xb, square, out=xb)
                xp.add(xb, s, out=xb)

    def relu(self, x: Array, y: Array) -> None:
        """Write max(x, 0) to ``y`` and its derivative, 0 or 1, over ``x``, both (N, C)."""
        for rows in self.blocks(*x.shape):
            self.xp.maximum(x[rows], 0, out=y[rows])
            self.xp.sign(y[rows], out=x[rows])

    # Layer norm -----------------------------------------------------------------------------

    def layer_norm(
        self, x: Array, gain: Array, bias: Array | None, normal: Array, rstd: Array, y: Array
    ) -> None:
        """Write (x - mean) / std to ``normal`` and gain * normal + bias to ``y``.

        Shapes: x, normal, y (N, C); gain, bias (C,); rstd (N,), which becomes 1 / std.
        """
        xp, width = self.xp, x.shape[1]
        ones = self.ones(width)
        for rows in self.blocks(*x.shape):
            centred, scale = normal[rows], rstd[rows]
            xp.matmul(x[rows], ones, out=scale)
            xp.multiply(scale, 1 / width, out=scale)
            xp.subtract(x[rows], scale[:, None], out=centred)
            self.row_dots(centred, centred, out=scale)
            xp.multiply(scale, 1 / width, out=scale)
            xp.add(scale, LAYER_NORM_EPS, out=scale)
            xp.sqrt(scale, out=scale)
            xp.reciprocal(scale, out=scale)
            xp.multiply(centred, scale[:, None], out=centred)
            xp.multiply(centred, gain, out=y[rows])
            if bias is not None:
                xp.add(y[rows], bias, out=y[rows])

    def layer_norm_backward(
        self, dy: Array, gain: Array, normal: Array, rstd: Array, dx: Array, dgain: Array
    ) -> None:
        """Add dL/dx to ``dx`` (N, C) and dL/dgain to ``dgain`` (C,); ``dy`` (N, C) is destroyed.

        With g = gain * dy: dx = rstd (g - mean(g) - normal mean(g normal)). Both means are
        products of an array that is needed anyhow with the vector gain.
        """
        xp, width = self.xp, dy.shape[1]
        for rows in self.blocks(*dy.shape):
            g, n = dy[rows], normal[rows]
            size = g.shape[0]
            product = self.scratch(1, *g.shape)
            mean, slope = self.scratch(2, size), self.scratch(3, size)
            xp.multiply(g, n, out=product)
            self.add_column_sums(product, dgain)
            xp.matmul(product, gain, out=slope)
            xp.multiply(slope, 1 / width, out=slope)
            xp.matmul(g, gain, out=mean)
            xp.multiply(mean, 1 / width, out=mean)
            xp.multiply(n, slope[:, None], out=product)
            xp.add(product, mean[:, None], out=product)
            xp.multiply(g, gain, out=g)
            xp.subtract(g, product, out=g)
            xp.multiply(g, rstd[rows][:, None], out=g)
            xp.add(dx[rows], g, out=dx[rows])

    # Softmax --------------------------------------------------------------------------------

    def softmax_parts(self, scores: Array, inverse_sums: Array) -> None:
        """Turn ``scores`` (..., K) into e = exp(scores - max), and write 1 / sum(e) (..., 1).

        Whoever uses e scales the (much smaller) result of the next product instead of e.
        """
        xp = self.xp
        xp.max(scores, axis=-1, keepdims=True, out=inverse_sums)
        xp.subtract(scores, inverse_sums, out=scores)
        xp.exp(scores, out=scores)
        xp.matmul(scores, self.ones(scores.shape[-1])[:, None], out=inverse_sums)
        xp.reciprocal(inverse_sums, out=inverse_sums)

    def cross_entropy(self, logits: Array, targets: Array, losses: Array) -> None:
        """Write -log softmax(logits)[target] to ``losses`` and its gradient over ``logits``.

        Shapes: logits (N, V); targets (N,) integers; losses (N,), nats.
        """
        xp, (count, width) = self.xp, logits.shape
        places = xp.arange(count) * width + targets
        flat = logits.reshape(-1)
        inverse_sums = self.scratch(0, count, 1)
        xp.max(logits, axis=1, keepdims=True, out=inverse_sums)
        xp.subtract(logits, inverse_sums, out=logits)
        losses[...] = flat[places]
        xp.exp(logits, out=logits)
        xp.matmul(logits, self.ones(width)[:, None], out=inverse_sums)
        xp.subtract(xp.log(inverse_sums[:, 0]), losses, out=losses)
        xp.reciprocal(inverse_sums, out=inverse_sums)
        xp.multiply(logits, inverse_sums, out=logits)
        flat[places] -= 1

    # Dropout --------------------------------------------------------------------------------

    def dropout_mask(self, rng: np.random.Generator, p: float, out: Array) -> None:
        """Fill ``out`` with 0 (probability ``p``) or 1 / (1 - p), drawn from ``rng``."""
        raise NotImplementedError
