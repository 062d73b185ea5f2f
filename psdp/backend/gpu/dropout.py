"""Dropout on a GPU: a mask is never kept, kernels draw it again wherever they need it."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from psdp.backend.gpu.arrays import GpuArrays
from psdp.backend.gpu.device import Device
from psdp.params import Array

MOST_MASKS = 2**14
"""Dropout masks of the models of a backend."""


class Mask(NamedTuple):
    """A dropout mask: the stream of its layer's random numbers, and how much it drops."""

    stream: int
    p: float


class GpuDropout(GpuArrays):
    """See :class:`psdp.backend.kernels.dropout.DropoutKernels`."""

    def __init__(self, device: Device, dtype: str, precision: str) -> None:
        super().__init__(device, dtype, precision)
        self._seed = device.zeros((2,), np.uint32)
        self._streams = 0

    def seed(self, rng: np.random.Generator) -> None:
        self.device.upload(rng.integers(2**32, size=2, dtype=np.uint32), self._seed)

    def new_mask(self, size: int) -> int:
        self._streams += 1
        assert self._streams < MOST_MASKS
        return self._streams

    def draw_mask(self, rng: np.random.Generator, p: float, room: int, size: int) -> Mask:
        return Mask(room, p)

    def drop(self, x: Array, mask: Mask, out: Array) -> None:
        assert self._kind(x) == "real" or not self._half
        kernel = "drop_to_act" if self._kind(out) == "act" else "drop_real"
        self._each("elementwise", kernel, x.size, x, *self._drawn(mask), out, x.size)

    def add_dropped(self, x: Array, mask: Mask, out: Array) -> None:
        self._each("elementwise", "add_dropped", x.size, x, *self._drawn(mask), out, x.size)

    def _drawn(self, mask: Mask | None) -> tuple[Array, int, float]:
        return (self._seed, 0, 0.0) if mask is None else (self._seed, mask.stream, mask.p)
