"""A copy of what one worker has for itself, as it is kept in a checkpoint."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from psdp.params import Array

_OPTIMIZER, _PROGRESS = "optimizer.", "progress"


@dataclass
class Inner:
    """What a worker goes on with that no server has.

    Attributes:
        clock: gradients of the worker that it is made of.
        updates: by its optimizer.
        answered: whether the answer to what the worker pushed last is in it.
        optimizer: vectors (P,) of that, by their names.
        own: other vectors (P,).
    """

    clock: int = 0
    updates: int = 0
    answered: bool = True
    optimizer: dict[str, Array] = field(default_factory=dict)
    own: dict[str, Array] = field(default_factory=dict)

    def tensors(self) -> dict[str, Array]:
        """Return everything by name, as it is kept in a checkpoint; the vectors are not copied."""
        numbers = [self.clock, self.updates, int(self.answered)]
        return {
            **{f"{_OPTIMIZER}{name}": vector for name, vector in self.optimizer.items()},
            **self.own,
            _PROGRESS: np.array(numbers, np.int64),
        }

    @classmethod
    def from_tensors(cls, tensors: dict[str, Array]) -> Inner:
        """Return what :meth:`tensors` described."""
        inner = cls()
        for name, vector in tensors.items():
            if name == _PROGRESS:
                inner.clock, inner.updates, answered = vector.tolist()
                inner.answered = bool(answered)
            elif name.startswith(_OPTIMIZER):
                inner.optimizer[name.removeprefix(_OPTIMIZER)] = vector
            else:
                inner.own[name] = vector
        return inner
