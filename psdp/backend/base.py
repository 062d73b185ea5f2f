"""The kernels every layer is made of, written once against an array module ``xp``.

Each kernel writes into arrays that it is given and walks them in blocks of rows that stay in the
cache, so a chain of element-wise operations reads and writes main memory once. Sums along rows and
columns are products with a vector of ones: BLAS runs them several times faster than ``sum``.
Nothing here knows of layers, parameters or the shape of a model.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np

from psdp.backend.arrays import BF16, Array
from psdp.backend.attention import CausalAttention, split_heads
from psdp.backend.squares import clip_coefficient, sum_of_squares

LAYER_NORM_EPS = 1e-5

# gelu(x) = x / (1 + exp(x (GELU_LINEAR + GELU_CUBIC x^2))): the tanh form of GPT-2, since
# (1 + tanh u) / 2 is the logistic function of 2 u with u = sqrt(2 / pi) (x + 0.044715 x^3).
GELU_LINEAR = -2.0 * math.sqrt(2.0 / math.pi)
GELU_CUBIC = 0.044715 * GELU_LINEAR


Scalar = float | Array
"""A number, or (1,) float64 on a device that is not waited for."""


class AdamStep(NamedTuple):
    """The scalars of one update: w = shrink w - step_size mean / (sqrt(mean_sq) + eps), with the
    means of scale g and its square."""

    scale: Scalar
    beta1: float
    beta2: float
    step_size: float
    eps: float
    shrink: float


class Backend(CausalAttention):
    """Every kernel that the layers and optimizers are made of; a subclass overrides what its device
    does better."""

    # Rows named by ids ----------------------------------------------------------------------

    def embed(
        self,
        table: Array,
        ids: Array,
        scale: float,
        positions: Array | None,
        length: int,
        out: Array,
    ) -> None:
        """Write ``scale`` times the rows ``ids`` (N) of ``table`` (V, C), plus the rows of
        ``positions`` (T, C) for each sequence of ``length`` T, to ``out`` (N, C)."""
        raise NotImplementedError

    def scatter_add(self, ids: Array, rows: Array, scale: float, table: Array) -> None:
        """Add ``scale`` times ``rows`` (N, C), which may be destroyed, to the rows ``ids`` (N) of
        ``table`` (V, C); ids may repeat."""
        raise NotImplementedError

    # Products and sums ----------------------------------------------------------------------

    def matmul(self, a: Array, b: Array, out: Array) -> None:
        """Write ``a`` (M, K) times ``b`` (K, N) to ``out`` (M, N); ``a`` and ``b`` may be
        transposed views."""
        self.xp.matmul(a, b, out=out)

    def add_product(self, a: Array, b: Array, out: Array) -> None:
        """Add ``a`` (M, K) times ``b`` (K, N) to ``out`` (M, N); ``a`` and ``b`` may be
        transposed views."""
        product = self.scratch(0, *out.shape)
        self.xp.matmul(a, b, out=product)
        out += product

    def affine(self, x: Array, weight: Array, bias: Array | None, y: Array) -> None:
        """Write ``x`` (N, I) times ``weight`` (I, O) plus ``bias`` (O,), of y's type, to ``y``
        (N, O)."""
        self.matmul(x, weight, y)
        if bias is not None:
            self.add_bias(bias, y)

    def affine_gelu(
        self, x: Array, weight: Array, bias: Array | None, inner: Array, y: Array
    ) -> None:
        """Write what :meth:`affine` makes of ``x`` to ``inner``, and its gelu to ``y``."""
        self.affine(x, weight, bias, inner)
        self.gelu(inner, y)

    def add_affine(self, x: Array, weight: Array, bias: Array | None, y: Array) -> None:
        """Add ``x`` (N, I) times ``weight`` (I, O) plus ``bias`` (O,), of y's type, to ``y``
        (N, O)."""
        if bias is not None:
            self.add_bias(bias, y)
        self.add_product(x, weight, y)

    def add_bias(self, bias: Array, y: Array) -> None:
        """Add ``bias`` (C,), of y's type, to every row of ``y`` (N, C)."""
        y += bias

    def add_column_sums(self, x: Array, out: Array) -> None:
        """Add the sum of the rows of ``x`` (N, C) to ``out`` (C,)."""
        sums = self.scratch(0, x.shape[1])
        self.xp.matmul(self.ones(x.shape[0]), x, out=sums)
        out += sums

    def add_total(self, x: Array, scale: float, out: Array) -> None:
        """Add ``scale`` times the sum of ``x`` (N,) to ``out`` (1,) float64."""
        out += scale * x.sum(dtype=np.float64)

    def sum_of_squares(self, vector: Array) -> float:
        """Return the sum of the squares of ``vector`` (P,), which may be bfloat16; NaN or Inf only
        if it holds NaN or Inf.

        It waits for the device.
        """
        if vector.dtype != BF16:
            return sum_of_squares(vector)
        total = 0.0
        for block in self.blocks(vector.size, 1):
            wide = self.scratch(2, vector[block].size)
            self.mean([vector[block]], [1.0], wide)
            total += sum_of_squares(wide)
        return total

    def clip_coefficient(self, vector: Array, limit: float) -> Scalar:
        """Return min(1, limit / norm) of ``vector`` (P,), 1 where the limit is 0, and NaN where the
        vector is not finite. A GPU's is not waited for."""
        squares = self.sum_of_squares(vector)
        return clip_coefficient(math.sqrt(squares), limit) if math.isfinite(squares) else math.nan

    # Activations ----------------------------------------------------------------------------

    def gelu(self, x: Array, y: Array) -> None:
        """Write gelu(x) to ``y``, both (N, C); the form is GPT-2's tanh (arXiv:1606.08415)."""
        with np.errstate(over="ignore"):
            for rows in self.blocks(*x.shape):
                xb, yb = x[rows], y[rows]
                square = self.xp.multiply(xb, xb, out=self.scratch(0, *xb.shape))
                self.xp.multiply(xb, self._logistic(xb, square), out=yb)

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

    def relu(self, x: Array, y: Array) -> None:
        """Write max(x, 0) to ``y``, both (N, C)."""
        self.xp.maximum(x, 0, out=y)

    def relu_backward(self, x: Array, dy: Array) -> None:
        """Set ``dy`` to 0 where x <= 0, and turn ``x`` into max(x, 0); both (N, C)."""
        self.xp.maximum(x, 0, out=x)
        for rows in self.blocks(*x.shape):
            passed = self.scratch(0, *x[rows].shape)
            self.xp.sign(x[rows], out=passed)
            self.xp.multiply(dy[rows], passed, out=dy[rows])

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
        self,
        dy: Array,
        gain: Array,
        normal: Array,
        rstd: Array,
        dx: Array,
        dgain: Array,
        dbias: Array | None,
    ) -> None:
        """Add dL/dx to ``dx`` (N, C), dL/dgain to ``dgain`` (C,) and dL/dbias to ``dbias`` (C,),
        if there is one; ``dy`` (N, C) is destroyed.

        With g = gain * dy: dx = rstd (g - mean(g) - normal mean(g normal)). Both means are
        products of an array that is needed anyhow with the vector gain.
        """
        xp, width = self.xp, dy.shape[1]
        if dbias is not None:
            self.add_column_sums(dy, dbias)
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

    def cross_entropy(self, logits: Array, targets: Array, scale: float, losses: Array) -> None:
        """Write -log softmax(logits)[target] to ``losses``, ``scale`` times its gradient over
        ``logits``.

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
        xp.divide(scale, inverse_sums, out=inverse_sums)
        xp.multiply(logits, inverse_sums, out=logits)
        flat[places] -= scale

    def argmax(self, logits: Array, best: Array) -> None:
        """Write the index of the greatest of each row of ``logits`` (N, V) to ``best`` (N,)."""
        best[...] = logits.argmax(axis=1)

    # Positions ------------------------------------------------------------------------------

    def rotate(self, qkv: Array, batch: int, heads: int, cos: Array, sin: Array, sign: int) -> None:
        """Turn the channel pairs (d, d + D/2) of queries and keys in ``qkv`` (N, 3C), in place, by
        the angle of their position, or back if ``sign`` is -1.

        Shapes: cos, sin (T, D/2), of the positions in a sequence.
        """
        sin = sin if sign > 0 else -sin
        multiply, half = self.xp.multiply, cos.shape[1]
        for part in split_heads(qkv, batch, heads)[:2]:
            for sequence in part:
                first, second = sequence[..., :half], sequence[..., half:]
                from_first = multiply(first, sin, out=self.scratch(0, *first.shape))
                from_second = multiply(second, sin, out=self.scratch(1, *first.shape))
                first *= cos
                first -= from_second
                second *= cos
                second += from_first

    # Optimizer ------------------------------------------------------------------------------

    def mean(self, vectors: list[Array], shares: list[float], out: Array) -> None:
        """Write the sum of share times vector, (P,) each, in their order to ``out`` (P,).

        The vectors are all of ``out``'s type, or all bfloat16, to a float32 ``out``. ``out`` may be
        one of them: a block is written after it has been read from all.
        """
        xp = self.xp
        for block in self.blocks(out.size, 1):
            sums, part = (self.scratch(index, out[block].size) for index in (0, 1))
            xp.multiply(self._wide(vectors[0][block], sums), shares[0], out=sums)
            for vector, share in zip(vectors[1:], shares[1:], strict=True):
                xp.multiply(self._wide(vector[block], part), share, out=part)
                xp.add(sums, part, out=sums)
            out[block] = sums

    def _wide(self, vector: Array, room: Array) -> Array:
        """Return ``vector`` (B,) itself, or if it is bfloat16 in ``room`` (B,), as float32."""
        if vector.dtype != BF16:
            return vector
        bits = room.view(np.uint32)
        bits[...] = vector
        self.xp.left_shift(bits, 16, out=bits)
        return room

    def round_bf16(self, x: Array, out: Array) -> None:
        """Write ``x`` (P,), float32, to ``out`` (P,) as bfloat16: the nearest, of two the even one.

        What is closer to 2^128 than to the largest number becomes Inf; NaN stays NaN.
        """
        xp = self.xp
        for block in self.blocks(x.size, 1):
            bits = x[block].view(np.uint32)
            rounded, room = (self.scratch(index, bits.size) for index in (0, 1))
            rounded = rounded.view(np.uint32)
            xp.right_shift(bits, 16, out=rounded)
            xp.bitwise_and(rounded, 1, out=rounded)
            xp.add(rounded, 0x7FFF, out=rounded)
            xp.add(rounded, bits, out=rounded)
            xp.right_shift(rounded, 16, out=rounded)
            # The carry could turn NaN into Inf or 0: it keeps its upper half, with a bit that says
            # NaN whatever was cut off.
            is_nan = xp.isnan(x[block], out=room.view(np.bool_)[: bits.size])
            if is_nan.any():
                rounded[is_nan] = bits[is_nan] >> 16 | 0x40
            out[block] = rounded

    def adam(self, w: Array, g: Array, mean: Array, mean_sq: Array, step: AdamStep) -> None:
        """Move the means towards g and g^2, g times ``step.scale``, and w by Adam's rule; all (P,),
        in place. ``g`` is only read."""
        for block in self.blocks(w.size, 2):
            self._adam(w[block], g[block], mean[block], mean_sq[block], step)

    def _adam(self, w: Array, g: Array, mean: Array, mean_sq: Array, step: AdamStep) -> None:
        assert isinstance(step.scale, float), "only a device has it elsewhere"
        xp, scratch = self.xp, self.scratch(0, w.size)
        xp.multiply(g, step.scale * (1.0 - step.beta1), out=scratch)
        xp.multiply(mean, step.beta1, out=mean)
        xp.add(mean, scratch, out=mean)

        # Scaled before it is squared: a gradient that is clipped may be too large to be squared.
        xp.multiply(g, step.scale * math.sqrt(1.0 - step.beta2), out=scratch)
        xp.multiply(scratch, scratch, out=scratch)
        xp.multiply(mean_sq, step.beta2, out=mean_sq)
        xp.add(mean_sq, scratch, out=mean_sq)

        xp.sqrt(mean_sq, out=scratch)
        xp.add(scratch, step.eps, out=scratch)
        xp.divide(mean, scratch, out=scratch)
        xp.multiply(scratch, step.step_size, out=scratch)
        if step.shrink != 1.0:
            xp.multiply(w, step.shrink, out=w)
        xp.subtract(w, scratch, out=w)

    # Dropout --------------------------------------------------------------------------------

    def draw_mask(self, rng: np.random.Generator, p: float, room: Any, size: int) -> Any:
        """Return a mask of ``size`` elements, 0 (probability ``p``) or 1 / (1 - p), drawn in the
        room that :meth:`new_mask` made for it."""
        raise NotImplementedError

    def drop(self, x: Array, mask: Any, out: Array) -> None:
        """Write ``x`` times a mask of as many elements to ``out``, which may be ``x``."""
        self.xp.multiply(x, mask.reshape(x.shape), out=out)

    def add_dropped(self, x: Array, mask: Any, out: Array) -> None:
        """Add ``x`` times a mask of as many elements to ``out``; ``x`` may be destroyed."""
        self.drop(x, mask, x)
        out += x
