"""What an optimizer does with flat vectors: means, norms, rounding, Adam's rule."""

from __future__ import annotations

import itertools
import math
from typing import NamedTuple

import numpy as np

from psdp.backend.arrays import BF16, Arrays
from psdp.backend.costs import costs, moves
from psdp.backend.squares import BLOCK, block_squares, clip_coefficient, few_with_the_sum_of
from psdp.params import Array, Part

_WIDENED = 8 * BLOCK
"""Elements of bfloat16 that are made float32 at a time to be summed; whole blocks of any size."""

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


class OptimizerKernels(Arrays):
    """Kernels on whole vectors (P,)."""

    @costs(moves)
    def block_squares(self, vector: Array, block: int) -> Array:
        """Return the sum of the squares of each ``block`` elements of ``vector`` (P,), which may be
        bfloat16: (N,) float64 on the host; NaN or Inf only where it holds NaN or Inf.

        It waits for the device.
        """
        if vector.dtype != BF16:
            return block_squares(vector, block)
        sums = [np.empty(0)]
        for start in range(0, vector.size, _WIDENED):
            narrow = vector[start : start + _WIDENED]
            wide = self.scratch(2, narrow.size)
            self.mean([narrow], [1.0], wide)
            sums.append(block_squares(wide, block))
        return np.concatenate(sums)

    @costs(moves)
    def squares(self, vector: Array, part: Part) -> tuple[float, ...]:
        """Return few numbers whose sum is that of the squares of ``vector`` (S,), a part of a whole
        one: those of all parts add up to the same bits wherever it is cut. It waits for the
        device."""
        sums = [self.block_squares(vector[run], part.block_size) for run in part.runs]
        return few_with_the_sum_of(itertools.chain.from_iterable(sums))

    @costs(moves)
    def sum_of_squares(self, vector: Array) -> float:
        """Return the sum of the squares of ``vector`` (P,), which may be bfloat16; NaN or Inf only
        if it holds NaN or Inf. It waits for the device."""
        return math.fsum(self.block_squares(vector, BLOCK))

    @costs(moves)
    def clip_coefficient(self, vector: Array, limit: float) -> Scalar:
        """Return min(1, limit / norm) of ``vector`` (P,), 1 where the limit is 0, and NaN where the
        vector is not finite. A GPU's is not waited for."""
        squares = self.sum_of_squares(vector)
        return clip_coefficient(math.sqrt(squares), limit) if math.isfinite(squares) else math.nan

    @costs(moves)
    def mean(self, vectors: list[Array], shares: list[float], out: Array) -> None:
        """Write the sum of share times vector, (P,) each, in their order to ``out`` (P,).

        The vectors are all of ``out``'s type, or all bfloat16, to a float32 ``out``. ``out`` may be
        one of them: a block is written after it has been read from all.
        """
        xp = self.xp
        for block in self.blocks(out.size, 1):
            sums, part = (self.scratch(index, out[block].size) for index in (0, 1))
            xp.multiply(self.widened(vectors[0][block], sums), shares[0], out=sums)
            for vector, share in zip(vectors[1:], shares[1:], strict=True):
                xp.multiply(self.widened(vector[block], part), share, out=part)
                xp.add(sums, part, out=sums)
            out[block] = sums

    @costs(moves)
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

    @costs(moves)
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
