"""Kernels that a GPU has none of its own for: the reference's operations on arrays, one after the
other, in the precision of sums.

What no GPU has been measured at is not worth a kernel yet: these are read and written again and
again, and rounded arrays are widened first.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any

from psdp.backend.arrays import BF16
from psdp.backend.gpu.attention import GpuAttention
from psdp.backend.kernels.activation import ActivationKernels
from psdp.backend.kernels.attention import AttentionKernels
from psdp.backend.kernels.embedding import EmbeddingKernels
from psdp.backend.kernels.gated import GatedKernels
from psdp.backend.kernels.loss import LossKernels
from psdp.backend.kernels.normalization import NormalizationKernels
from psdp.params import Array

_FIRST_ROOM = 16
"""The first number of scratch memory that arrays are widened in; kernels use lower ones."""

Kernel = Callable[..., None]


def _composed(kernel: Kernel, *written: int) -> Any:
    """Return a kernel of the reference for arrays that may be bfloat16.

    Args:
        written: which of its arguments it writes.
    """

    @wraps(kernel)
    def call(self: GpuComposed, *arguments: Any) -> None:
        wide = list(arguments)
        for index, argument in enumerate(arguments):
            if getattr(argument, "dtype", None) == BF16:
                room = self.scratch(_FIRST_ROOM + index, *argument.shape)
                wide[index] = self.widened(argument, room)
        kernel(self, *wide)
        for index in written:
            if wide[index] is not arguments[index]:
                self.cast(wide[index], arguments[index])

    return call


def _even_cross_entropy(
    self: GpuComposed, logits: Array, scale: float, losses: Array, gradient: Array
) -> None:
    """Write the mean of -log softmax(logits) to ``losses``, ``scale`` times its gradient to
    ``gradient``; shapes as of cross_entropy."""
    xp, (count, width) = self.xp, logits.shape
    largest, sums = self.scratch(0, count, 1), self.scratch(1, count, 1)
    xp.max(logits, axis=1, keepdims=True, out=largest)
    xp.subtract(logits, largest, out=gradient)
    self.row_dots(gradient, self.ones(width), losses)
    xp.multiply(losses, -1 / width, out=losses)
    xp.exp(gradient, out=gradient)
    self.row_dots(gradient, self.ones(width), sums[:, 0])
    xp.log(sums, out=largest)
    xp.add(losses, largest[:, 0], out=losses)
    xp.divide(scale, sums, out=sums)
    xp.multiply(gradient, sums, out=gradient)
    xp.subtract(gradient, scale / width, out=gradient)


def _add(self: GpuComposed, x: Array, out: Array) -> None:
    """Add ``x`` to ``out``."""
    self.xp.add(out, x, out=out)


class GpuComposed(GpuAttention):
    """See the classes that they are taken from."""

    def rotate(self, qkv: Array, batch: int, heads: int, cos: Array, sin: Array, sign: int) -> None:
        # The kernel turns whole heads.
        whole = 6 * heads * cos.shape[1] == qkv.shape[1]
        turn = super().rotate if whole else self._rotate_some
        turn(qkv, batch, heads, cos, sin, sign)

    _rotate_some = _composed(AttentionKernels.rotate, 0)

    def row_dots(self, a: Array, b: Array, out: Array) -> None:
        products = self.xp.multiply(a, b, out=self.scratch(_FIRST_ROOM - 1, *a.shape))
        self.device.gemm(products, self.ones(a.shape[1])[:, None], out[:, None], add=False)

    gelu_erf = _composed(ActivationKernels.gelu_erf, 1)
    gelu_erf_backward = _composed(ActivationKernels.gelu_erf_backward, 0, 1)
    swiglu = _composed(GatedKernels.swiglu, 1)
    swiglu_backward = _composed(GatedKernels.swiglu_backward, 0, 1)
    geglu = _composed(GatedKernels.geglu, 1)
    geglu_backward = _composed(GatedKernels.geglu_backward, 0, 1)
    rms_norm = _composed(NormalizationKernels.rms_norm, 3, 5)
    rms_norm_backward = _composed(NormalizationKernels.rms_norm_backward, 4)
    repeat_heads = _composed(AttentionKernels.repeat_heads, 3)
    sum_heads = _composed(AttentionKernels.sum_heads, 3)
    add_to_last_columns = _composed(EmbeddingKernels.add_to_last_columns, 1)
    take_last_columns = _composed(EmbeddingKernels.take_last_columns, 1)
    scale_rows = _composed(LossKernels.scale_rows, 0)
    even_cross_entropy = _composed(_even_cross_entropy)
    add_wide = _composed(_add, 1)
    cap = _composed(LossKernels.cap, 0)
    cap_backward = _composed(LossKernels.cap_backward, 2)
    relu2 = _composed(ActivationKernels.relu2, 1)
    relu2_backward = _composed(ActivationKernels.relu2_backward, 0, 1)
