"""Heavy-ball momentum (Polyak 1964), in the form of Sutskever et al. 2013 that PyTorch has."""

from __future__ import annotations

import numpy as np

from psdp.backend import Backend, Scalar
from psdp.config import OptimConfig
from psdp.optim.base import Optimizer
from psdp.params import Array


class Momentum(Optimizer):
    """velocity = momentum * velocity + g; w -= lr * velocity.

    The learning rate stays outside the velocity, so a schedule acts at once on all of it.
    """

    state_names = ("velocity",)

    def __init__(self, config: OptimConfig, size: int, decayed_size: int, backend: Backend) -> None:
        super().__init__(config, size, decayed_size, backend)
        self._momentum = config.momentum

    def step(
        self,
        weights: Array,
        gradient: Array,
        lr: float,
        scale: Scalar = 1.0,
        clip_value: float = 0.0,
    ) -> None:
        self.updates += 1
        for span, w, g, scratch, _ in self._blocks(weights, gradient, scale, clip_value):
            velocity = self._state["velocity"][span]
            np.multiply(velocity, self._momentum, out=velocity)
            np.add(velocity, g, out=velocity)
            np.multiply(velocity, lr, out=scratch)
            np.subtract(w, scratch, out=w)
