"""What every update rule shares: the walk over the shard, the gradient's way in, and the state.

A rule sees flat vectors only. It never sees a parameter's name, a rank, a message or a clock.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping

import numpy as np

from psdp.backend import Backend, Scalar
from psdp.config import OptimConfig
from psdp.errors import CheckpointError
from psdp.optim.blocks import block_size, blocks
from psdp.params import Array


class Optimizer(ABC):
    """Update one shard of the weights in place, block by block, allocating nothing per step.

    The first ``decayed_size`` elements of the shard belong to matrices: weight decay and l1 act
    on them alone. Scalars stay Python floats, so a float32 shard stays float32.

    Attributes:
        updates: steps taken; the bias correction of Adam counts them.
    """

    state_names: tuple[str, ...] = ()

    def __init__(self, config: OptimConfig, size: int, decayed_size: int, backend: Backend) -> None:
        assert 0 <= decayed_size <= size, (decayed_size, size)
        self.size = size
        self.decayed_size = decayed_size
        self.backend, self.dtype = backend, backend.dtype
        self.updates = 0
        self._l2 = config.weight_decay
        self._l1 = config.l1
        self._state = {name: backend.zeros(size) for name in self.state_names}
        self._block_size = block_size(self.dtype, backend.name)
        self._gradient_block = backend.empty(min(size, self._block_size))
        self._scratch_block = backend.empty(min(size, self._block_size))

    @abstractmethod
    def step(
        self,
        weights: Array,
        gradient: Array,
        lr: float,
        scale: Scalar = 1.0,
        clip_value: float = 0.0,
    ) -> None:
        """Update ``weights`` (size,) in place; ``gradient`` (size,) is only read.

        The gradient is multiplied by ``scale`` (the coefficient of the global-norm clip; one that
        is on a device is not waited for), then clipped to [-clip_value, clip_value] element by
        element (0: no clip), as calling PyTorch's ``clip_grad_norm_`` and then
        ``clip_grad_value_`` would.
        The penalties are added after that, so clipping never weakens them.
        """

    def state(self) -> dict[str, Array]:
        """Return the live vectors (size,) that a checkpoint must keep beside ``updates``."""
        return dict(self._state)

    def clear(self) -> None:
        """Begin anew, as if no step had been taken."""
        for vector in self._state.values():
            vector[...] = 0
        self.updates = 0

    def load(self, state: Mapping[str, Array], updates: int) -> None:
        """Copy a saved state in, so that the next step is the one the saved run would have taken.

        Raises:
            CheckpointError: the names, a size or a dtype is not this rule's; nothing is changed.
        """
        rule = type(self).__name__
        if set(state) != set(self._state):
            raise CheckpointError(
                f"the optimizer {rule} expects the state {sorted(self._state)}, got "
                f"{sorted(state)}; resume with the optimizer that wrote the checkpoint"
            )
        for name, vector in state.items():
            if vector.shape != (self.size,) or vector.dtype != self.dtype:
                raise CheckpointError(
                    f"the state '{name}' of {rule} must have shape ({self.size},) and dtype "
                    f"{self.dtype}, got {vector.shape} and {vector.dtype}; resume with the model, "
                    f"--dtype and number of servers that wrote the checkpoint"
                )
        for name, vector in state.items():
            self.backend.to_device(vector, self._state[name])
        self.updates = updates

    def _ranges(self, weights: Array, gradient: Array) -> tuple[tuple[bool, slice], ...]:
        """Return (decayed, span) of the elements of matrices, and of all others."""
        assert weights.shape == gradient.shape == (self.size,), (weights.shape, gradient.shape)
        assert weights.dtype == gradient.dtype == self.dtype, (weights.dtype, gradient.dtype)
        boundary = self.decayed_size
        return (True, slice(0, boundary)), (False, slice(boundary, self.size))

    def _blocks(
        self, weights: Array, gradient: Array, scale: Scalar, clip_value: float
    ) -> Iterator[tuple[slice, Array, Array, Array, bool]]:
        """Yield (span, weights, gradient, scratch, decayed) of each block, in order.

        The gradient comes scaled, clipped and with its penalties. It may be the caller's own
        memory, so a rule only reads it; the scratch is the rule's to overwrite.
        """
        for decayed, part in self._ranges(weights, gradient):
            for span in blocks(part.start, part.stop, self._block_size):
                w = weights[span]
                scratch = self._scratch_block[: w.size]
                g = self._clipped(gradient[span], scale, clip_value)
                if decayed:
                    g = self._penalised(w, g, scratch)
                yield span, w, g, scratch, decayed

    def _clipped(self, g: Array, scale: Scalar, clip_value: float) -> Array:
        """Return clip(scale * g), which is ``g`` itself where neither does anything."""
        clipped = self._gradient_block[: g.size]
        if not (isinstance(scale, float) and scale == 1.0):
            g = np.multiply(g, scale, out=clipped)
        if clip_value:
            g = np.clip(g, -clip_value, clip_value, out=clipped)
        return g

    def _penalised(self, w: Array, g: Array, scratch: Array) -> Array:
        """Return g + l2 * w + l1 * sign(w), which is ``g`` itself where there is no penalty."""
        penalised = self._gradient_block[: w.size]
        if self._l2:
            np.multiply(w, self._l2, out=scratch)
            g = np.add(g, scratch, out=penalised)
        if self._l1:
            np.sign(w, out=scratch)
            np.multiply(scratch, self._l1, out=scratch)
            g = np.add(g, scratch, out=penalised)
        return g
