"""Layer norm, and its likes."""

from __future__ import annotations

from psdp.backend.costs import costs, moves
from psdp.backend.kernels.linear import LinearKernels
from psdp.params import Array


class NormalizationKernels(LinearKernels):
    """Rows brought to mean 0 and variance 1, or to mean square 1, scaled and shifted."""

    @costs(moves)
    def layer_norm(
        self,
        x: Array,
        gain: Array,
        bias: Array | None,
        eps: float,
        normal: Array,
        rstd: Array,
        y: Array,
    ) -> None:
        """Write (x - mean) / std to ``normal`` and gain * normal + bias to ``y``; to the variance
        ``eps`` is added.

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
            xp.add(scale, eps, out=scale)
            xp.sqrt(scale, out=scale)
            xp.reciprocal(scale, out=scale)
            xp.multiply(centred, scale[:, None], out=centred)
            xp.multiply(centred, gain, out=y[rows])
            if bias is not None:
                xp.add(y[rows], bias, out=y[rows])

    @costs(moves)
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

    @costs(moves)
    def rms_norm(
        self, x: Array, gain: Array, eps: float, normal: Array, rstd: Array, y: Array
    ) -> None:
        """Write x / sqrt(mean(x^2) + eps) to ``normal`` and gain * normal to ``y``.

        Shapes: x, normal, y (N, C); gain (C,); rstd (N,), which becomes the factor of each row.
        """
        xp, width = self.xp, x.shape[1]
        for rows in self.blocks(*x.shape):
            scale = rstd[rows]
            self.row_dots(x[rows], x[rows], out=scale)
            xp.multiply(scale, 1 / width, out=scale)
            xp.add(scale, eps, out=scale)
            xp.sqrt(scale, out=scale)
            xp.reciprocal(scale, out=scale)
            xp.multiply(x[rows], scale[:, None], out=normal[rows])
            xp.multiply(normal[rows], gain, out=y[rows])

    @costs(moves)
    def rms_norm_backward(
        self, dy: Array, gain: Array, normal: Array, rstd: Array, dx: Array, dgain: Array
    ) -> None:
        """Add dL/dx to ``dx`` (N, C) and dL/dgain to ``dgain`` (C,); ``dy`` (N, C) is destroyed.

        With g = gain * dy: dx = rstd (g - normal mean(g normal)).
        """
        xp, width = self.xp, dy.shape[1]
        for rows in self.blocks(*dy.shape):
            g, n = dy[rows], normal[rows]
            product, slope = self.scratch(1, *g.shape), self.scratch(2, g.shape[0])
            xp.multiply(g, n, out=product)
            self.add_column_sums(product, dgain)
            xp.multiply(g, gain, out=g)
            self.row_dots(g, n, out=slope)
            xp.multiply(slope, 1 / width, out=slope)
            xp.multiply(n, slope[:, None], out=product)
            xp.subtract(g, product, out=g)
            xp.multiply(g, rstd[rows][:, None], out=g)
            xp.add(dx[rows], g, out=dx[rows])
