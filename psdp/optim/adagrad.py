"""Adagrad (Duchi, Hazan, Singer 2011)."""

from __future__ import annotations

from types import MappingProxyType

import numpy as np

from psdp.backend import Scalar
from psdp.optim.base import Optimizer
from psdp.params import Array

EPS = 1e-10


class Adagrad(Optimizer):
    """sum += g²; w -= lr * g / (sqrt(sum) + eps)."""

    name = "adagrad"
    defaults = MappingProxyType({"lr": 1e-2, "weight_decay": 0.0})
    state_names = ("sum",)

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
            total = self._state["sum"][span]
            np.multiply(g, g, out=scratch)
            np.add(total, scratch, out=total)

            np.sqrt(total, out=scratch)
            np.add(scratch, EPS, out=scratch)
            np.divide(g, scratch, out=scratch)
            np.multiply(scratch, lr, out=scratch)
            np.subtract(w, scratch, out=w)
