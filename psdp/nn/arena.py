"""What a layer is handed when it is built: its parameters, and memory for its activations.

All of it is allocated here, once; a training step allocates nothing of the size of the model.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from psdp.backend import Backend
from psdp.params import Array, ParamTable


@dataclass(frozen=True)
class Parameters:
    """Named views of the flat weights (as they are, and cast to the compute dtype) and, while
    training, of the flat gradient.

    ``under("block.0")`` sees the same vectors through a longer prefix.

    Attributes:
        weights, cast_weights, gradients: by the names of the table.
        prefix: of the names that layers ask for.
    """

    weights: Mapping[str, Array]
    cast_weights: Mapping[str, Array]
    gradients: Mapping[str, Array]
    prefix: str = ""

    @classmethod
    def of(
        cls,
        table: ParamTable,
        weights: Array,
        gradient: Array | None,
        cast_weights: Array | None = None,
    ) -> Parameters:
        """Return all parameters of a table, as views of these flat vectors (P,)."""
        views = table.views(weights)
        return cls(
            views,
            views if cast_weights is None else table.views(cast_weights),
            {} if gradient is None else table.views(gradient),
        )

    def under(self, name: str) -> Parameters:
        """Return the parameters whose names begin with this prefix and ``name``."""
        return replace(self, prefix=f"{self.prefix}{name}.")

    def weight(self, name: str) -> Array:
        """Return the view of a weight."""
        return self.weights[self.prefix + name]

    def cast_weight(self, name: str) -> Array:
        """Return the view of a weight in the compute dtype."""
        return self.cast_weights[self.prefix + name]

    def optional_cast_weight(self, name: str) -> Array | None:
        """Return the same of one that the configuration may have left out."""
        return self.cast_weights.get(self.prefix + name)

    def optional_weight(self, name: str) -> Array | None:
        """Return the view of a weight that the configuration may have left out."""
        return self.weights.get(self.prefix + name)

    def gradient(self, name: str) -> Array:
        """Return the view that the gradient of a weight is added to."""
        assert self.gradients, "this model was built without a gradient: it can only evaluate"
        return self.gradients[self.prefix + name]


class Arena:
    """Buffers for up to ``rows`` tokens.

    Attributes:
        backend: where the buffers live.
        rows: the largest N.
        training: whether activations must outlive the layer that wrote them.
        bytes: of the buffers, by name.
    """

    def __init__(self, backend: Backend, rows: int, *, training: bool) -> None:
        self.backend, self.rows, self.training = backend, rows, training
        self.bytes: Counter[str] = Counter()
        self._shared: dict[str, Array] = {}

    def kept(self, name: str, *shape: int, dtype: Any = None) -> Array:
        """Return a buffer that keeps its contents until the backward pass, of ``compute_dtype``
        unless told.

        Without one, the layers that ask for the same name take turns with one buffer.
        """
        if not self.training:
            return self.scratch(name, *shape, dtype=dtype)
        return self._new(name, shape, dtype)

    def scratch(self, name: str, *shape: int, dtype: Any = None) -> Array:
        """Return a buffer shared by all who ask for ``name``, of ``compute_dtype`` unless told; the
        next of them overwrites it."""
        size = math.prod(shape)
        buffer = self._shared.get(name)
        if buffer is None or buffer.size < size:
            self.bytes[name] = 0
            buffer = self._shared[name] = self._new(name, (size,), dtype)
        return buffer[:size].reshape(shape)

    def _new(self, name: str, shape: tuple[int, ...], dtype: Any) -> Array:
        buffer = self.backend.zeros(*shape, dtype=dtype or self.backend.compute_dtype)
        self.bytes[name] += buffer.nbytes
        return buffer
