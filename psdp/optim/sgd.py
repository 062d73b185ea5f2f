"""Stochastic gradient descent without a state."""

from __future__ import annotations

from types import MappingProxyType

import numpy as np

from psdp.backend import Scalar
from psdp.optim.base import Optimizer
from psdp.params import Array


class SGD(Optimizer):
    """w -= lr * g."""

    name = "sgd"
    defaults = MappingProxyType({"lr": 0.5, "weight_decay": 0.0})

    def step(
        self,
        weights: Array,
        gradient: Array,
        lr: float,
        scale: Scalar = 1.0,
        clip_value: float = 0.0,
    ) -> None:
        self.updates += 1
        for _, w, g, scratch, _ in self._blocks(weights, gradient, scale, clip_value):
            np.multiply(g, lr, out=scratch)
            np.subtract(w, scratch, out=w)
