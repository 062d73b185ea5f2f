"""An average of the weights, to be evaluated and used instead of them."""

from __future__ import annotations

from psdp.backend import Backend
from psdp.optim.outer import Elastic
from psdp.params import Array, Part


class WeightAverage:
    """An exponential moving average of weights (S,), a = d a + (1 - d) w after each update: the
    averaging of Polyak and Juditsky (1992, doi:10.1137/0330046), but that older weights fade.

    It begins as the weights are. Since first ones are worth nothing, d rises to ``decay``, after t
    steps to min(decay, (1 + t) / (10 + t)) at most, as in TensorFlow and diffusers. It is that of a
    step: an update that is worth s of them, in tokens, fades what is older by d**s.

    Args:
        decay: d, below 1.
        part: of the flat vector.

    Attributes:
        values: (S,), on the backend.
        begun: whether there are any yet.
    """

    def __init__(self, decay: float, part: Part, backend: Backend) -> None:
        self.values = backend.zeros(part.size)
        self.begun = False
        self._decay = decay
        self._backend = backend
        self._rule = Elastic(part, backend)

    def begin(self, weights: Array) -> None:
        """Begin with weights (S,), on the backend."""
        self.values[...] = weights
        self.begun = True

    def load(self, average: Array) -> None:
        """Go on with an average (S,) that was saved."""
        self._backend.to_device(average, self.values)
        self.begun = True

    def add(self, weights: Array, before: float, steps: float) -> None:
        """Take in weights (S,) which an update worth so many steps has made, after those
        ``before`` it."""
        kept = min(self._decay, (1 + before) / (10 + before)) ** steps
        self._rule.step(self.values, weights, 1 - kept)
