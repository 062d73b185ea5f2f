"""Heavy-ball momentum (Polyak 1964), in the form of Sutskever et al. 2013 that PyTorch has."""

from __future__ import annotations

from dataclasses import dataclass
from types import MappingProxyType

import numpy as np

from psdp.backend import Backend, Scalar
from psdp.fields import setting
from psdp.optim.base import Optimizer, Settings
from psdp.params import Array, Part


@dataclass(frozen=True)
class MomentumSettings(Settings):
    """What heavy-ball momentum is told."""

    momentum: float = setting(0.9, "of the momentum optimizer", low=0, below=1)


class Momentum(Optimizer):
    """velocity = momentum * velocity + g; w -= lr * velocity.

    The learning rate stays outside the velocity, so a schedule acts at once on all of it.
    """

    name = "momentum"
    settings_type = MomentumSettings
    defaults = MappingProxyType({"lr": 0.1, "weight_decay": 0.0})
    state_names = ("velocity",)

    def __init__(self, settings: MomentumSettings, part: Part, backend: Backend) -> None:
        super().__init__(settings, part, backend)
        self._momentum = settings.momentum

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
