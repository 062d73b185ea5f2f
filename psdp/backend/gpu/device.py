"""What a GPU backend asks of a device."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

from psdp.backend.gpu.cuda import Source
from psdp.backend.gpu.libraries import Libraries
from psdp.params import Array


class Device(Protocol):
    """What a GPU does for a backend; all of it in order, and later than it is asked for."""

    xp: Any
    """The array module."""
    name: str
    """Which device it is, among those of this host."""
    capability: int
    """CUDA's compute capability, times ten."""
    shared_bytes: int
    """The most shared memory of a block."""

    def libraries(self) -> Libraries:
        """Return those that are installed, and work."""

    def memory(self) -> tuple[int, int]:
        """Return the free bytes and all bytes."""

    def empty(self, shape: tuple[int, ...], dtype: Any) -> Array: ...

    def zeros(self, shape: tuple[int, ...], dtype: Any) -> Array: ...

    def pin(self, vector: Array) -> bool:
        """Pin a NumPy vector, so that copies of it may be asynchronous; say whether that is
        possible."""

    def download_async(self, device: Array, out: Array) -> None:
        """Copy to a part of a pinned vector, beside what is asked for next. Who waits for the
        device waits for this too; what is captured ends when it has ended."""

    def copy(self, source: Array, out: Array) -> None:
        """Copy a contiguous array to another one, of this device or opened."""

    def upload(self, host: Array, out: Array) -> None:
        """Copy a NumPy array; unless it was pinned it may change as soon as this returns."""

    def download(self, device: Array, out: Array) -> None:
        """Copy to a NumPy array; complete on return."""

    def clear(self, out: Array) -> None:
        """Set a contiguous array to zero."""

    def synchronize(self) -> None: ...

    def is_idle(self) -> bool:
        """Say whether all that was asked for is done."""

    def export(self, nbytes: int) -> tuple[Array, bytes]:
        """Return zeros (nbytes or some more,) uint8 that other processes of this host may open, and
        the handle by which they do; they must close it before the array goes.

        Raises:
            OSError: there is no such memory here, or not so much.
        """

    def open(self, handle: bytes) -> Array:
        """Return the memory (nbytes,) uint8 that another process exported, until the array goes.

        Raises:
            OSError: it cannot be reached from this device.
        """

    def launch(
        self,
        source: Source,
        kernel: str,
        grid: tuple[int, ...],
        block: int,
        arguments: tuple[Any, ...],
        shared: int = 0,
    ) -> None:
        """Run a kernel on arrays, ``int`` (long long) and ``float`` (double), with so many bytes of
        shared memory a block."""

    def gemm(self, a: Array, b: Array, out: Array, *, add: bool) -> None:
        """Write ``a`` (M, K) times ``b`` (K, N) to ``out`` (M, N), or add it; ``a`` and ``b``
        may be transposed views, and are of one format."""

    def capture(self, work: Callable[[], None]) -> Callable[[], None]:
        """Capture what ``work`` asks for, which is not done now, as a graph; return what replays
        it."""


def address(array: Array) -> int:
    """Return where an array of a device lies in its memory."""
    return int(array.data.ptr)  # type: ignore[attr-defined]
