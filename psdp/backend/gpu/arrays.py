"""A GPU's arrays, and its kernels as they are launched; the ground floor of a GPU backend."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import Any

import numpy as np

from psdp.backend.arrays import BF16, Arrays
from psdp.backend.gpu.cuda import Source
from psdp.backend.gpu.cuda.tiles import Tile
from psdp.backend.gpu.device import Device
from psdp.backend.gpu.grids import BLOCK, MOST_BLOCKS, ceil
from psdp.params import Array


class GpuArrays(Arrays):
    """Arrays of a device in one pair of formats.

    Args:
        device: does what is asked for.
        dtype: "float32" or "float64".
        precision: "float32" (that of ``dtype``; "tf32" is the device's business) or "bf16".
    """

    name = "gpu"
    tile = 2**27
    query_block = 2**31

    def __init__(self, device: Device, dtype: str, precision: str) -> None:
        self.device = device
        self.xp = device.xp
        self.precision = precision
        self._half = precision == "bf16"
        self._real = dtype
        super().__init__(dtype)
        if self._half:
            self.compute_dtype = BF16
        self._graphs: dict[Hashable, Callable[[], None] | None] = {}
        self._outgrown: list[Array] = []

    # Arrays ---------------------------------------------------------------------------------

    def empty(self, *shape: int, dtype: Any = None) -> Array:
        return self.device.empty(shape, self.dtype if dtype is None else dtype)

    def zeros(self, *shape: int, dtype: Any = None) -> Array:
        return self.device.zeros(shape, self.dtype if dtype is None else dtype)

    def scratch(self, index: int, *shape: int) -> Array:
        before = self._scratch.get(index)
        memory = super().scratch(index, *shape)
        if before is not None and self._scratch[index] is not before:
            self._outgrown.append(before)  # a step that was captured goes on using it
        return memory

    def copy(self, source: Array, out: Array) -> None:
        plain = source.flags.c_contiguous and out.flags.c_contiguous
        if plain and (source.shape, source.dtype) == (out.shape, out.dtype):
            self.device.copy(source, out)
        else:
            self.xp.positive(source, out=out)

    def to_device(self, host: Array, out: Array) -> None:
        self.device.upload(np.ascontiguousarray(host, out.dtype), out)

    def pin(self, host: Array) -> bool:
        return self.device.pin(host)

    def to_host_async(self, device: Array, out: Array) -> None:
        self.device.download_async(device, out)

    def to_host(self, device: Array, out: Array) -> None:
        self.device.download(device, out)

    def on_host(self, vector: Array) -> Array:
        host: Array = np.empty(vector.shape, vector.dtype)
        self.device.download(vector, host)
        return host

    def synchronize(self) -> None:
        self.device.synchronize()

    def is_idle(self) -> bool:
        return self.device.is_idle()

    def clear(self, out: Array) -> None:
        self.device.clear(out)

    def run_captured(self, key: Hashable, step: Callable[[], None]) -> None:
        """The first time is eager, which allocates all scratch buffers; the second is captured,
        and replayed like all that follow."""
        if key not in self._graphs:
            self._graphs[key] = None
            step()
            return
        replay = self._graphs[key]
        if replay is None:
            replay = self._graphs[key] = self.device.capture(step)
        replay()

    def new_cast_weights(self, weights: Array) -> Array:
        return self.zeros(weights.size, dtype=self.compute_dtype) if self._half else weights

    def cast(self, x: Array, out: Array) -> Array:
        if self._kind(x) == "act":
            return x
        self._each("elementwise", "round_to_act", x.size, x, out, x.size)
        return out

    def new_ids(self, count: int) -> Array:
        return self.zeros(count, 2, dtype=np.int32)

    def load_ids(self, host: Array, out: Array, *, ordered: bool = False) -> None:
        pairs = np.zeros((host.size, 2), np.int32)
        pairs[:, 0] = host
        if ordered:
            pairs[:, 1] = np.argsort(host, kind="stable")
        self.device.upload(pairs, out)

    # Launches -------------------------------------------------------------------------------

    def source(self, file: str, tile: Tile | None = None, *, drops: bool = False) -> Source:
        """Return a file of kernels in this backend's formats."""
        act = "bf16" if self._half else self._real
        return Source(f"{file}.cu", self._real, act, tile, drops)

    def _kind(self, array: Array) -> str:
        """Return how kernels tell a format: "act", of branches, or "real". Where both are one, all
        is "act" but what the kernel's name says."""
        return "act" if array.dtype == self.compute_dtype else "real"

    def _launch(
        self, file: str, kernel: str, grid: tuple[int, ...], block: int, *arguments: Any
    ) -> None:
        self.device.launch(self.source(file), kernel, grid, block, arguments)

    def _each(self, file: str, kernel: str, size: int, *arguments: Any) -> None:
        """Run a kernel whose threads go through so many elements."""
        blocks = max(1, min(MOST_BLOCKS, ceil(size, BLOCK)))
        self._launch(file, kernel, (blocks,), BLOCK, *arguments)
