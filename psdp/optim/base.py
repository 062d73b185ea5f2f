"""What every update rule shares: its settings, the walk over the shard, and the state.

A rule is given the parameters of its shard with their shapes, and flat vectors to update. It never
sees a rank, a message or a clock.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, ClassVar

import numpy as np

from psdp.backend import Backend, Scalar
from psdp.errors import CheckpointError
from psdp.optim.blocks import block_size, blocks
from psdp.params import Array, ParamSpec, Part, Piece


@dataclass(frozen=True)
class Settings:
    """What a rule is told; one with settings of its own adds them, each a flag (psdp.fields)."""

    weight_decay: float = 0.0
    l1: float = 0.0


class Optimizer(ABC):
    """Update one shard of the weights in place, block by block, allocating nothing per step.

    Weight decay and l1 act on the first ``part.decayed_size`` elements of the shard alone. Scalars
    stay Python floats, so a float32 shard stays float32.

    Attributes:
        name: as ``--optimizer`` has it.
        settings_type: of its settings, whose fields beyond those of :class:`Settings` are flags.
        defaults: of settings that are left to the rule: "lr", "weight_decay" and any of its own.
        state_names: of the vectors that it keeps.
        multiplies: whether matrices are multiplied, which takes as many cores as there are.
        part: what it updates.
        updates: steps taken; the bias correction of Adam counts them.
    """

    name: ClassVar[str] = ""
    settings_type: ClassVar[type[Settings]] = Settings
    defaults: ClassVar[Mapping[str, Any]] = MappingProxyType({})
    state_names: tuple[str, ...] = ()
    multiplies: ClassVar[bool] = False

    @classmethod
    def needs_whole(cls, spec: ParamSpec) -> bool:
        """Say whether the rule updates a parameter as one: no shard ends within it. All others it
        updates element by element, wherever they are cut."""
        return False

    def __init__(self, settings: Settings, part: Part, backend: Backend) -> None:
        size = part.size
        assert 0 <= part.decayed_size <= size, (part.decayed_size, size)
        self.part = part
        self.size = size
        self.backend, self.dtype = backend, backend.dtype
        self.updates = 0
        self._l2 = settings.weight_decay
        self._l1 = settings.l1
        self._whole = tuple(piece for piece in part.pieces if self.needs_whole(piece.spec))
        self._ranges = tuple(_between(self._whole, part))
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

    def _blocks(
        self, weights: Array, gradient: Array, scale: Scalar, clip_value: float
    ) -> Iterator[tuple[slice, Array, Array, Array, bool]]:
        """Yield (span, weights, gradient, scratch, decayed) of each block, in order, of what is
        updated element by element.

        The gradient comes scaled, clipped and with its penalties. It may be the caller's own
        memory, so a rule only reads it; the scratch is the rule's to overwrite.
        """
        self._check(weights, gradient)
        for decayed, part in self._ranges:
            for span in blocks(part.start, part.stop, self._block_size):
                w = weights[span]
                scratch = self._scratch_block[: w.size]
                own = self._gradient_block[: w.size]
                g = self._clipped(gradient[span], scale, clip_value, own)
                if decayed:
                    g = self._penalised(w, g, own, scratch)
                yield span, w, g, scratch, decayed

    def _matrix(
        self,
        piece: Piece,
        weights: Array,
        gradient: Array,
        scale: Scalar,
        clip_value: float,
        own: Array,
        scratch: Array,
    ) -> tuple[Array, Array]:
        """Return the weights and the gradient of a parameter that is updated as one, in its shape;
        the gradient as :meth:`_blocks` has it, in ``own`` where it is not the caller's memory.
        ``own`` and ``scratch``: vectors of its size, or longer."""
        spec, w = piece.spec, weights[piece.span]
        own, scratch = own[: spec.size], scratch[: spec.size]
        g = self._clipped(gradient[piece.span], scale, clip_value, own)
        if spec.decay:
            g = self._penalised(w, g, own, scratch)
        return w.reshape(spec.shape), g.reshape(spec.shape)

    def _check(self, weights: Array, gradient: Array) -> None:
        assert weights.shape == gradient.shape == (self.size,), (weights.shape, gradient.shape)
        assert weights.dtype == gradient.dtype == self.dtype, (weights.dtype, gradient.dtype)

    def _clipped(self, g: Array, scale: Scalar, clip_value: float, own: Array) -> Array:
        """Return clip(scale * g) in ``own``, or ``g`` itself where neither does anything."""
        if not (isinstance(scale, float) and scale == 1.0):
            g = np.multiply(g, scale, out=own)
        if clip_value:
            g = np.clip(g, -clip_value, clip_value, out=own)
        return g

    def _penalised(self, w: Array, g: Array, own: Array, scratch: Array) -> Array:
        """Return g + l2 * w + l1 * sign(w) in ``own``, or ``g`` itself where there is no
        penalty."""
        if self._l2:
            np.multiply(w, self._l2, out=scratch)
            g = np.add(g, scratch, out=own)
        if self._l1:
            np.sign(w, out=scratch)
            np.multiply(scratch, self._l1, out=scratch)
            g = np.add(g, scratch, out=own)
        return g


def _between(whole: tuple[Piece, ...], part: Part) -> Iterator[tuple[bool, slice]]:
    """Yield (decayed, span) of what lies between these pieces: two long spans without any."""
    ranges = (True, 0, part.decayed_size), (False, part.decayed_size, part.size)
    for decayed, start, stop in ranges:
        for piece in whole:
            if piece.spec.decay == decayed:
                yield decayed, slice(start, piece.span.start)
                start = piece.span.stop
        yield decayed, slice(start, stop)
