"""A rule that psdp has not, as a person would add it, that treats matrices as matrices."""

from __future__ import annotations

from types import MappingProxyType

import numpy as np

from psdp.backend import Backend, Scalar
from psdp.optim.adam import AdamSettings, AdamW
from psdp.params import Array, ParamSpec, Part


class Orthogonal(AdamW):
    """Matrices follow their momentum made orthogonal (Muon, Jordan et al. 2024), which takes all of
    one; all else is AdamW's."""

    name = "orthogonal"
    defaults = MappingProxyType({"lr": 1e-2, "weight_decay": 0.1})

    @classmethod
    def needs_whole(cls, spec: ParamSpec) -> bool:
        return spec.matrix

    def __init__(self, settings: AdamSettings, part: Part, backend: Backend) -> None:
        super().__init__(settings, part, backend)
        self._decay = settings.weight_decay

    def step(
        self,
        weights: Array,
        gradient: Array,
        lr: float,
        scale: Scalar = 1.0,
        clip_value: float = 0.0,
    ) -> None:
        super().step(weights, gradient, lr, scale, clip_value)
        for span, w, g, decayed in self._matrices(weights, gradient, scale, clip_value):
            momentum = self._state["exp_avg"][span].reshape(w.shape)
            momentum *= 0.95
            momentum += g
            if decayed:
                w *= 1.0 - lr * self._decay
            left, _, right = np.linalg.svd(momentum, full_matrices=False)
            w -= lr * (left @ right)
