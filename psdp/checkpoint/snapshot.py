"""A copy of a shard at one version, as it is kept in a checkpoint."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from psdp.checkpoint.layout import AVERAGE, WEIGHTS
from psdp.params import Array


@dataclass
class Snapshot:
    """A copy of a shard at one version: weights (S,) and the optimizer's vectors (S,) each.

    ``batches`` are ranges of those that are in the weights, where rank 0 deals them out;
    ``average`` (S,) is that of the weights, where one is kept.
    """

    version: int
    units: int
    updates: int
    clocks: dict[int, int]
    weights: Array
    optimizer: dict[str, Array]
    batches: Sequence[tuple[int, int]] = ()
    average: Array | None = None

    @property
    def evaluated(self) -> Array:
        """The weights (S,) that are evaluated: their average, where one is kept."""
        return self.weights if self.average is None else self.average

    @property
    def vectors(self) -> list[Array]:
        """All vectors (S,), in the order in which they travel."""
        average = [] if self.average is None else [self.average]
        return [self.weights, *self.optimizer.values(), *average]

    def tensors(self) -> dict[str, Array]:
        """Return everything by name, as it is kept in a checkpoint; the vectors are not copied."""
        workers = sorted(self.clocks)
        return {
            WEIGHTS: self.weights,
            **({} if self.average is None else {AVERAGE: self.average}),
            **{f"optimizer.{name}": vector for name, vector in self.optimizer.items()},
            "progress": np.array([self.version, self.units, self.updates], np.int64),
            "clocks": np.array([(n, self.clocks[n]) for n in workers], np.int64),
            "batches": np.array(self.batches, np.int64).reshape(-1, 2),
        }

    @classmethod
    def from_tensors(cls, tensors: dict[str, Array]) -> Snapshot:
        """Return what :meth:`tensors` described."""
        version, units, updates = tensors["progress"].tolist()
        prefix = "optimizer."
        clocks = tensors["clocks"].tolist()
        # Until 0.1.0 workers had the numbers of their ranks, which follow those of the servers.
        first = min((worker for worker, _ in clocks), default=1)
        return cls(
            version=version,
            units=units,
            updates=updates,
            clocks={worker - first + 1: clock for worker, clock in clocks},
            batches=[(start, stop) for start, stop in tensors["batches"].tolist()],
            weights=tensors[WEIGHTS],
            optimizer={
                name.removeprefix(prefix): vector
                for name, vector in tensors.items()
                if name.startswith(prefix)
            },
            average=tensors.get(AVERAGE),
        )
