"""Linear layers: GEMMs, with a bias, gelu or a sum as their epilogue."""

from __future__ import annotations

from psdp.backend.costs import costs, moves, multiplies, multiplies_half
from psdp.backend.kernels.activation import ActivationKernels
from psdp.params import Array


class LinearKernels(ActivationKernels):
    """GEMMs, and what is done to their result on the way out."""

    @costs(multiplies)
    def matmul(self, a: Array, b: Array, out: Array) -> None:
        """Write ``a`` (M, K) times ``b`` (K, N) to ``out`` (M, N); ``a`` and ``b`` may be
        transposed views."""
        self.xp.matmul(a, b, out=out)

    @costs(multiplies_half)
    def symmetric_matmul(self, a: Array, b: Array, out: Array) -> None:
        """Write ``a`` (M, K) times ``b`` (K, M), a product that is symmetric, to ``out`` (M, M).

        NumPy itself halves the work where ``b`` is ``a.T``, a view of the same array.
        """
        self.matmul(a, b, out)

    @costs(multiplies)
    def add_matmul(self, a: Array, b: Array, out: Array) -> None:
        """Add ``a`` (M, K) times ``b`` (K, N) to ``out`` (M, N); ``a`` and ``b`` may be
        transposed views."""
        product = self.scratch(0, *out.shape)
        self.xp.matmul(a, b, out=product)
        out += product

    @costs(multiplies)
    def affine(self, x: Array, weight: Array, bias: Array | None, y: Array) -> None:
        """Write ``x`` (N, I) times ``weight`` (I, O) plus ``bias`` (O,), of y's type, to ``y``
        (N, O)."""
        self.matmul(x, weight, y)
        if bias is not None:
            self.add_bias(bias, y)

    @costs(multiplies)
    def affine_gelu(
        self, x: Array, weight: Array, bias: Array | None, inner: Array, y: Array
    ) -> None:
        """Write what :meth:`affine` makes of ``x`` to ``inner``, and its gelu to ``y``."""
        self.affine(x, weight, bias, inner)
        self.gelu(inner, y)

    @costs(multiplies)
    def add_affine(self, x: Array, weight: Array, bias: Array | None, y: Array) -> None:
        """Add ``x`` (N, I) times ``weight`` (I, O) plus ``bias`` (O,), of y's type, to ``y``
        (N, O)."""
        if bias is not None:
            self.add_bias(bias, y)
        self.add_matmul(x, weight, y)

    @costs(moves)
    def add_bias(self, bias: Array, y: Array) -> None:
        """Add ``bias`` (C,), of y's type, to every row of ``y`` (N, C)."""
        y += bias

    @costs(moves)
    def add_column_sums(self, x: Array, out: Array) -> None:
        """Add the sum of the rows of ``x`` (N, C) to ``out`` (C,)."""
        sums = self.scratch(0, x.shape[1])
        self.xp.matmul(self.ones(x.shape[0]), x, out=sums)
        out += sums
