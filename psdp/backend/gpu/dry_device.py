"""A device that does nothing and adds up the memory that it is asked for."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from psdp.backend.gpu.cuda import Source
from psdp.backend.gpu.libraries import (
    NO_LIBRARIES,
    AttentionPlan,
    AttentionShape,
    FusedAttention,
    Libraries,
)
from psdp.params import Array


class DryOperations:
    """Stands for an array module whose operations are done to nothing."""

    def __getattr__(self, name: str) -> Callable[..., Array]:
        return lambda *operands, out, **options: out


class DryDevice:
    """See :class:`psdp.backend.gpu.device.Device`. Its arrays are never touched, so the system
    has no memory to find for them.

    Attributes:
        bytes: of all arrays so far.
    """

    def __init__(self) -> None:
        self.xp: Any = DryOperations()
        self.name, self.capability, self.shared_bytes = "none", 0, 2**20
        self.bytes = 0

    def libraries(self) -> Libraries:
        return NO_LIBRARIES

    def empty(self, shape: tuple[int, ...], dtype: Any) -> Array:
        array: Array = np.empty(shape, dtype)
        self.bytes += array.nbytes
        return array

    def zeros(self, shape: tuple[int, ...], dtype: Any) -> Array:
        return self.empty(shape, dtype)

    def memory(self) -> tuple[int, int]:
        return 2**63, 2**63

    def pin(self, vector: Array) -> bool:
        return False

    def download_async(self, device: Array, out: Array) -> None:
        pass

    def copy(self, source: Array, out: Array) -> None:
        pass

    def upload(self, host: Array, out: Array) -> None:
        pass

    def download(self, device: Array, out: Array) -> None:
        pass

    def clear(self, out: Array) -> None:
        pass

    def synchronize(self) -> None:
        pass

    def is_idle(self) -> bool:
        return True

    def export(self, nbytes: int) -> tuple[Array, bytes]:
        return self.empty((nbytes,), np.uint8), b""

    def open(self, handle: bytes) -> Array:
        raise OSError(0, "there is nothing behind it")

    def launch(
        self,
        source: Source,
        kernel: str,
        grid: tuple[int, ...],
        block: int,
        arguments: tuple[Any, ...],
        shared: int = 0,
    ) -> None:
        pass

    def gemm(self, a: Array, b: Array, out: Array, *, add: bool) -> None:
        pass

    def capture(self, work: Callable[[], None]) -> Callable[[], None]:
        return work


class DryAttention:
    """A library's attention that is planned, and not carried out; see
    :class:`psdp.backend.gpu.libraries.FusedAttention`."""

    def __init__(self, library: FusedAttention) -> None:
        self.name, self._library, self.workspace_bytes = library.name, library, 0

    def plan(self, shape: AttentionShape) -> AttentionPlan:
        self.workspace_bytes = self._library.plan(shape).workspace_bytes
        return self

    def forward(self, *arrays: Array) -> None:
        pass

    def backward(self, *arrays: Array) -> None:
        pass
