"""Vectors in the memory of GPUs: how they are copied, and shared between ranks of one host.

A rank's :class:`SharedDeviceMemory` is one allocation, which its peers open by its handle (CUDA
IPC). What a GPU is asked for is done later, so it is waited for before a header names its memory.
"""

from __future__ import annotations

import secrets
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from psdp.params import Array
from psdp.transport.bell import BellCard
from psdp.transport.shared import SharedRegion, Window

ALIGNMENT = 256
"""Bytes; vectors begin at multiples of it, and the first one behind a name of fewer bytes."""


class MemorySpace(Protocol):
    """That of a host or of a GPU, where vectors lie."""

    def copy(self, source: Array, out: Array) -> None:
        """Copy a vector to another one there; complete once waited for."""

    def synchronize(self) -> None:
        """Return when all that was asked so far is done."""


class Device(MemorySpace, Protocol):
    """A GPU, as far as vectors travel between its memory and that of others; see
    :class:`psdp.backend.gpu.device.Device`."""

    def zeros(self, shape: tuple[int, ...], dtype: Any) -> Array: ...

    def upload(self, host: Array, out: Array) -> None: ...

    def download(self, device: Array, out: Array) -> None: ...

    def export(self, nbytes: int) -> tuple[Array, bytes]: ...

    def open(self, handle: bytes) -> Array: ...


class HostMemory:
    """That of this host, where everything is done at once."""

    def copy(self, source: Array, out: Array) -> None:
        np.copyto(out, source)

    def synchronize(self) -> None:
        pass


@dataclass(frozen=True)
class DeviceCard:
    """What a peer needs to open a :class:`SharedDeviceMemory` and find its first vector.

    Attributes:
        handle: of CUDA IPC, in hexadecimal digits.
        name: the bytes that the memory begins with, in hexadecimal digits.
        offset: of the vector, in bytes.
    """

    bell: BellCard
    handle: str
    name: str
    offset: int


class SharedDeviceMemory(SharedRegion):
    """Vectors of this rank on its GPU that its peers on the same host can read and write.

    Args:
        count: vectors of ``size`` elements of ``dtype`` for which there is room.

    Raises:
        OSError: the GPU shares no memory, or has not so much.
    """

    def __init__(self, count: int, size: int, dtype: npt.DTypeLike, device: Device) -> None:
        self._device = device
        nbytes = ALIGNMENT + count * _aligned(size * np.dtype(dtype).itemsize)
        seen, self._handle = device.export(nbytes)
        self._name = secrets.token_bytes(32)
        device.upload(np.frombuffer(self._name, np.uint8), seen[: len(self._name)])
        device.synchronize()
        self._used = ALIGNMENT
        super().__init__(seen)

    def zeros(self, size: int, dtype: npt.DTypeLike) -> Array:
        """Return a vector (size,) of zeros; one that is not shared, and so goes as a message, if
        there is no room left."""
        start, count = self._used, size * np.dtype(dtype).itemsize
        end = start + _aligned(count)
        if end > self._bytes.nbytes:
            return self._device.zeros((size,), dtype)
        self._used = end
        return self._bytes[start : start + count].view(dtype)

    def card(self) -> DeviceCard:
        """Return what a peer needs to open this memory and find the first vector in it."""
        return DeviceCard(self._bell.card(), self._handle.hex(), self._name.hex(), ALIGNMENT)


def open_device_memory(card: DeviceCard, device: Device) -> Window:
    """Return the GPU memory of a peer on the same host, seen from this rank's GPU.

    Raises:
        OSError: it cannot be reached from here, or what is there is not that peer's.
    """
    seen, name = device.open(bytes.fromhex(card.handle)), bytes.fromhex(card.name)
    found = np.zeros(len(name), np.uint8)
    try:
        device.download(seen[: len(name)], found)
    except RuntimeError as error:  # as CuPy has it
        raise OSError(0, f"it cannot be read ({error})") from error
    if found.tobytes() != name:
        raise OSError(0, "what is there is not its own")
    return Window(seen, card.offset, card.bell)


def _aligned(count: int) -> int:
    return -(-count // ALIGNMENT) * ALIGNMENT
