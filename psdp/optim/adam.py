"""Adam (Kingma, Ba 2014, arXiv:1412.6980) and AdamW (Loshchilov, Hutter 2017, arXiv:1711.05101)."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from psdp.config import OptimConfig
from psdp.optim.base import Optimizer
from psdp.params import Array

EPS = 1e-8


class Adam(Optimizer):
    """exp_avg and exp_avg_sq are running means of g and g²; w -= lr * mean / (sqrt(mean_sq) + eps).

    Both means start at zero and are corrected for it. The corrections are scalars, so they move
    out of the loop: with c1 = 1 - beta1^t and c2 = 1 - beta2^t

        lr * (m / c1) / (sqrt(v / c2) + eps) = lr * sqrt(c2) / c1 * m / (sqrt(v) + eps * sqrt(c2))

    which saves a pass over the shard.
    """

    state_names = ("exp_avg", "exp_avg_sq")

    def __init__(
        self, config: OptimConfig, size: int, decayed_size: int, dtype: npt.DTypeLike
    ) -> None:
        super().__init__(config, size, decayed_size, dtype)
        self._beta1, self._beta2 = config.beta1, config.beta2
        self._decoupled_decay = 0.0

    def step(
        self,
        weights: Array,
        gradient: Array,
        lr: float,
        scale: float = 1.0,
        clip_value: float = 0.0,
    ) -> None:
        self.updates += 1
        beta1, beta2 = self._beta1, self._beta2
        correction1 = 1.0 - beta1**self.updates
        correction2_sqrt = math.sqrt(1.0 - beta2**self.updates)
        step_size = lr * correction2_sqrt / correction1
        eps = EPS * correction2_sqrt
        shrink = 1.0 - lr * self._decoupled_decay

        for place, w, g, scratch, decayed in self._blocks(weights, gradient, scale, clip_value):
            mean = self._state["exp_avg"][place]
            np.multiply(g, 1.0 - beta1, out=scratch)
            np.multiply(mean, beta1, out=mean)
            np.add(mean, scratch, out=mean)

            mean_sq = self._state["exp_avg_sq"][place]
            np.multiply(g, g, out=scratch)
            np.multiply(scratch, 1.0 - beta2, out=scratch)
            np.multiply(mean_sq, beta2, out=mean_sq)
            np.add(mean_sq, scratch, out=mean_sq)

            np.sqrt(mean_sq, out=scratch)
            np.add(scratch, eps, out=scratch)
            np.divide(mean, scratch, out=scratch)
            np.multiply(scratch, step_size, out=scratch)
            if decayed and shrink != 1.0:
                np.multiply(w, shrink, out=w)
            np.subtract(w, scratch, out=w)


class AdamW(Adam):
    """Adam whose weight decay shrinks the weights by lr * weight_decay instead of joining g."""

    def __init__(
        self, config: OptimConfig, size: int, decayed_size: int, dtype: npt.DTypeLike
    ) -> None:
        super().__init__(config, size, decayed_size, dtype)
        self._l2, self._decoupled_decay = 0.0, config.weight_decay
