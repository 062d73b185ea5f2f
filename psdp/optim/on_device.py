"""An update rule whose vectors stay on a GPU, for a server whose weights travel from the host."""

from __future__ import annotations

from collections.abc import Mapping

from psdp.backend import Backend, Scalar
from psdp.optim.base import Optimizer
from psdp.params import Array


class OnDevice(Optimizer):
    """Runs another rule on a GPU: a gradient goes there, and the new weights come back.

    Its copy of the weights is the one that is updated, so nobody else may write them but
    :meth:`load`'s caller.

    Args:
        rule: on a GPU.
        host: the backend of the vectors that :meth:`step` is handed.
    """

    def __init__(self, rule: Optimizer, host: Backend) -> None:
        self.rule, self.backend, self.dtype = rule, host, rule.dtype
        self.part, self.size = rule.part, rule.size
        self.state_names = rule.state_names
        self._weights = rule.backend.zeros(rule.size)
        self._gradient = rule.backend.zeros(rule.size)
        self._stale = True

    @property
    def updates(self) -> int:  # type: ignore[override]
        return self.rule.updates

    def step(
        self,
        weights: Array,
        gradient: Array,
        lr: float,
        scale: Scalar = 1.0,
        clip_value: float = 0.0,
    ) -> None:
        device = self.rule.backend
        if self._stale:
            device.to_device(weights, self._weights)
            self._stale = False
        for vector in (gradient, weights):
            device.pin(vector)
        device.to_device(gradient, self._gradient)
        self.rule.step(self._weights, self._gradient, lr, scale, clip_value)
        device.to_host(self._weights, weights)

    def state(self) -> dict[str, Array]:
        """Return copies on the host."""
        on_host = self.rule.backend.on_host
        return {name: on_host(vector) for name, vector in self.rule.state().items()}

    def clear(self) -> None:
        self.rule.clear()

    def load(self, state: Mapping[str, Array], updates: int) -> None:
        self.rule.load(state, updates)
        self._stale = True
