"""The parts of a block that are one layer or another, as a setting says.

Which there are is said in psdp/architectures.py.
"""

from __future__ import annotations

from abc import abstractmethod
from importlib import import_module
from typing import TypeVar

import numpy as np

from psdp.architectures import ACTIVATIONS, NORMS
from psdp.config import ModelConfig
from psdp.nn.arena import Arena, Parameters
from psdp.nn.layer import Layer
from psdp.params import Array, Init, ParamSpec

Part = TypeVar("Part", bound=type[Layer])


class Norm(Layer, kind="layer norm"):
    """Normalises the channels. Shapes: x, y (N, C)."""

    @staticmethod
    @abstractmethod
    def specs(name: str, width: int, bias: bool) -> list[ParamSpec]:
        """Return its parameters."""

    @abstractmethod
    def __init__(self, eps: float, parameters: Parameters, arena: Arena) -> None:
        """``eps`` is added to a variance."""

    @abstractmethod
    def forward(self, x: Array, y: Array) -> None:
        """Write what becomes of ``x`` to ``y``; keep what backward needs."""

    @abstractmethod
    def backward(self, dy: Array, dx: Array) -> None:
        """Add the gradients of its parameters to their views; add dL/dx to ``dx``. ``dy`` is
        destroyed."""


class FeedForward(Layer, kind="activation"):
    """The position-wise network of a block. Shapes: x, y (N, C)."""

    @staticmethod
    @abstractmethod
    def specs(name: str, config: ModelConfig, up: Init, down: Init) -> list[ParamSpec]:
        """Return its parameters; ``up`` is how matrices start that lead into it, ``down`` those
        that lead back to the residual stream."""

    @abstractmethod
    def __init__(self, config: ModelConfig, parameters: Parameters, arena: Arena) -> None: ...

    @abstractmethod
    def forward(self, x: Array, y: Array, rng: np.random.Generator | None) -> None:
        """Add the network's output to ``y``; keep what backward needs."""

    @abstractmethod
    def backward(self, x: Array, dy: Array, dx: Array) -> None:
        """Add the gradients of its parameters to their views; write dL/dx to ``dx``."""


def norm_of(config: ModelConfig) -> type[Norm]:
    """Return the normalisation of a model."""
    return _found(NORMS[config.norm], Norm)


def feed_forward_of(config: ModelConfig) -> type[FeedForward]:
    """Return the position-wise network of a model."""
    return _found(ACTIVATIONS[config.activation], FeedForward)


def _found(place: str, part: Part) -> Part:
    module, _, name = place.partition(":")
    found: Part = getattr(import_module(module), name)
    assert issubclass(found, part), f"{place} is no {part.__name__}"
    return found
