"""Adam (Kingma, Ba 2014, arXiv:1412.6980) and AdamW (Loshchilov, Hutter 2017, arXiv:1711.05101)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from types import MappingProxyType

from psdp.backend import AdamStep, Backend, Scalar
from psdp.fields import setting
from psdp.optim.base import Optimizer, Settings
from psdp.params import Array, Part

EPS = 1e-8


@dataclass(frozen=True)
class AdamSettings(Settings):
    """What Adam is told."""

    # Rather less than is usual: measured in all modes, with 2 to 8 workers (docs/results.md).
    beta1: float = setting(0.5, "decay of Adam's first moment", low=0, below=1)
    beta2: float = setting(0.99, "decay of Adam's second moment", low=0, below=1)


class Adam(Optimizer):
    """exp_avg and exp_avg_sq are running means of g and g²; w -= lr * mean / (sqrt(mean_sq) + eps).

    Both means start at zero and are corrected for it. The corrections are scalars, so they move
    out of the loop: with c1 = 1 - beta1^t and c2 = 1 - beta2^t

        lr * (m / c1) / (sqrt(v / c2) + eps) = lr * sqrt(c2) / c1 * m / (sqrt(v) + eps * sqrt(c2))

    which saves a pass over the shard.
    """

    name = "adam"
    settings_type = AdamSettings
    defaults = MappingProxyType({"lr": 1e-3, "weight_decay": 0.0})
    state_names = ("exp_avg", "exp_avg_sq")

    def __init__(self, settings: AdamSettings, part: Part, backend: Backend) -> None:
        super().__init__(settings, part, backend)
        self._beta1, self._beta2 = settings.beta1, settings.beta2
        self._decoupled_decay = 0.0

    def step(
        self,
        weights: Array,
        gradient: Array,
        lr: float,
        scale: Scalar = 1.0,
        clip_value: float = 0.0,
    ) -> None:
        self.updates += 1
        correction1 = 1.0 - self._beta1**self.updates
        correction2_sqrt = math.sqrt(1.0 - self._beta2**self.updates)
        plain = not (clip_value or self._l2 or self._l1)
        kept = AdamStep(
            scale=scale if plain else 1.0,
            beta1=self._beta1,
            beta2=self._beta2,
            step_size=lr * correction2_sqrt / correction1,
            eps=EPS * correction2_sqrt,
            shrink=1.0,
        )
        shrunk = kept._replace(shrink=1.0 - lr * self._decoupled_decay)

        def apply(span: slice, w: Array, g: Array, decayed: bool) -> None:
            means, means_sq = self._state["exp_avg"][span], self._state["exp_avg_sq"][span]
            self.backend.adam(w, g, means, means_sq, shrunk if decayed else kept)

        if plain:
            # The kernel takes the scale along; only a clip or a penalty has to come before it.
            self._check(weights, gradient)
            for decayed, span in self._ranges:
                apply(span, weights[span], gradient[span], decayed)
        else:
            for span, w, g, _, decayed in self._blocks(weights, gradient, scale, clip_value):
                apply(span, w, g, decayed)


class AdamW(Adam):
    """Adam whose weight decay shrinks the weights by lr * weight_decay instead of joining g."""

    name = "adamw"
    defaults = MappingProxyType({"lr": 1e-3, "weight_decay": 0.1})

    def __init__(self, settings: AdamSettings, part: Part, backend: Backend) -> None:
        super().__init__(settings, part, backend)
        self._l2, self._decoupled_decay = 0.0, settings.weight_decay
