"""Outer optimizers: what a server does with what workers changed on their own.

A worker's *pseudo-gradient* is the weights that it started from minus those that it reached.
"""

from __future__ import annotations

import numpy as np

from psdp.backend import Backend, Scalar
from psdp.optim.base import Optimizer, Settings
from psdp.params import Array, Part


class Outer(Optimizer):
    """w -= lr (g / N + what the momentum adds every N pseudo-gradients), where momentum =
    outer_momentum * momentum + the mean of these N.

    In a round of all workers one mean arrives, N is 1, and these are the outer SGD of local SGD
    (lr 1: the average of the workers' weights), heavy-ball momentum (SlowMo, arXiv:1910.00643) and
    Nesterov momentum (DiLoCo, arXiv:2311.08105) in PyTorch's form. Where each of N workers is
    merged as it comes, momentum that grew with every arrival would count N times: it is delayed to
    every N-th, and between these the plain gradient goes on (Liu et al. 2024, arXiv:2401.09135).

    Args:
        kind: "average", "momentum" or "nesterov".
        momentum: how much of it is kept.
        arrivals: N.
    """

    def __init__(
        self,
        part: Part,
        backend: Backend,
        *,
        kind: str,
        momentum: float,
        arrivals: int,
    ) -> None:
        if kind != "average":
            self.state_names = ("momentum", "pending") if arrivals > 1 else ("momentum",)
        super().__init__(Settings(), part, backend)
        self._kind = kind
        self._decay = momentum
        self._arrivals = arrivals

    def step(
        self,
        weights: Array,
        gradient: Array,
        lr: float,
        scale: Scalar = 1.0,
        clip_value: float = 0.0,
    ) -> None:
        self.updates += 1
        share = 1 / self._arrivals
        for span, w, g, scratch, _ in self._blocks(weights, gradient, scale, clip_value):
            mean = np.multiply(g, share, out=scratch)
            if self._kind != "average":
                mean = self._with_momentum(span, mean)
            np.multiply(mean, lr, out=scratch)
            np.subtract(w, scratch, out=w)

    def _with_momentum(self, span: slice, mean: Array) -> Array:
        """Add what the momentum does to this share of a mean (B,), in place; return it."""
        momentum = self._state["momentum"][span]
        whole = mean
        if self._arrivals > 1:
            whole = self._state["pending"][span]
            np.add(whole, mean, out=whole)
            if self.updates % self._arrivals:
                return mean
        added = self._gradient_block[: mean.size]
        np.multiply(momentum, self._decay, out=added)
        np.add(added, whole, out=momentum)
        if self._kind == "nesterov":
            np.multiply(momentum, self._decay, out=added)
        np.add(mean, added, out=mean)
        if self._arrivals > 1:
            whole[...] = 0
        return mean


class Elastic(Optimizer):
    """w += lr (x - w): the weights are drawn to a worker's own (Zhang et al. 2015,
    arXiv:1412.6651). The "gradient" is the worker's weights x."""

    def __init__(self, part: Part, backend: Backend) -> None:
        super().__init__(Settings(), part, backend)

    def step(
        self,
        weights: Array,
        gradient: Array,
        lr: float,
        scale: Scalar = 1.0,
        clip_value: float = 0.0,
    ) -> None:
        self.updates += 1
        for _, w, x, scratch, _ in self._blocks(weights, gradient, scale, clip_value):
            np.subtract(x, w, out=scratch)
            np.multiply(scratch, lr, out=scratch)
            np.add(w, scratch, out=w)
