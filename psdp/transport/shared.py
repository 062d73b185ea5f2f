"""Memory that ranks of one host share.

A rank's :class:`SharedMemory` is a file in memory without a name in any folder (memfd), so nothing
can outlive the job, however it ends, and the size of /dev/shm does not matter. Peers reach it
through /proc/<pid>/fd and only there, so whoever opens it *is* on the same host and in the same
container, whatever their host names say.
"""

from __future__ import annotations

import mmap
import os
import re
import secrets
import weakref
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from psdp.errors import ProtocolError
from psdp.params import Array
from psdp.transport.bell import Bell, BellCard, Ringer
from psdp.transport.headers import FOLLOWS

_NAME = re.compile(r"psdp-[0-9a-f]{32}")


class SharedRegion:
    """Bytes of this rank that its peers on the same host see, with the bell by which they wake it.

    Args:
        seen: all of them, (N,) uint8.
    """

    def __init__(self, seen: Array) -> None:
        self._bytes = seen
        self._bell = Bell()

    def offset(self, raw: Array) -> int | None:
        """Return where these bytes lie in this memory; None if they are elsewhere, or none."""
        offset = _address(raw) - _address(self._bytes)
        inside = offset >= 0 and offset + raw.nbytes <= self._bytes.nbytes
        return offset if inside and raw.nbytes else None

    def listen(self, timeout_s: float) -> bool:
        """Sleep until a peer rings, or for so long; say whether one did."""
        return self._bell.listen(timeout_s)


@dataclass(frozen=True)
class MemoryCard:
    """What a peer needs to open a :class:`SharedMemory` and find a vector in it.

    Attributes:
        file: its number among the open files of the process that listens to the bell.
        name: of that file.
        capacity, offset: in bytes.
    """

    bell: BellCard
    file: int
    name: str
    capacity: int
    offset: int


class SharedMemory(SharedRegion):
    """Vectors of this rank that its peers on the same host can read and write.

    Args:
        count: vectors of ``size`` elements of ``dtype`` for which there is room; those that are
            not made take no memory.
        say: is told, once, why a vector could not be shared.

    Raises:
        OSError: this system has no such files, or not of that size.
    """

    def __init__(
        self, count: int, size: int, dtype: npt.DTypeLike, say: Callable[[str], None]
    ) -> None:
        self._say: Callable[[str], None] | None = say
        self._name = f"psdp-{secrets.token_hex(16)}"
        self._capacity = count * max(_whole_pages(size * np.dtype(dtype).itemsize), mmap.PAGESIZE)
        self._used = 0
        self._file = os.memfd_create(self._name)
        weakref.finalize(self, os.close, self._file)
        os.ftruncate(self._file, self._capacity)
        super().__init__(np.frombuffer(mmap.mmap(self._file, self._capacity), np.uint8))

    def zeros(self, size: int, dtype: npt.DTypeLike) -> Array:
        """Return a vector (size,) of zeros; in private memory if there is no room to share it."""
        count = size * np.dtype(dtype).itemsize
        try:
            offset = self._reserve(count)
        except OSError as error:
            if self._say is not None:
                self._say(
                    f"no room to share a vector of {count / 1e6:,.1f} MB ({error.strerror}): it "
                    "goes as MPI messages"
                )
                self._say = None
            return np.zeros(size, dtype)
        return self._bytes[offset : offset + count].view(dtype)

    def _reserve(self, count: int) -> int:
        """Return the offset of so many new bytes.

        Raises:
            OSError: there is no room; to write there would kill this rank by SIGBUS.
        """
        offset, end = self._used, self._used + _whole_pages(count)
        if end > self._capacity:
            raise OSError(0, f"more than the {self._capacity / 1e6:,.1f} MB set aside")
        if count:
            os.posix_fallocate(self._file, offset, count)
        self._used = end
        return offset

    def card(self, vector: Array) -> MemoryCard | None:
        """Return what a peer needs to open this memory and find a vector in it; None if the vector
        is elsewhere."""
        offset = self.offset(vector.view(np.uint8))
        return None if offset is None else replace(self.whole, offset=offset)

    @property
    def whole(self) -> MemoryCard:
        """What a peer needs to open this memory, where it need find nothing in it by itself."""
        return MemoryCard(self._bell.card(), self._file, self._name, self._capacity, 0)


class Window:
    """The memory of a peer on the same host.

    Args:
        seen: all its bytes, (N,) uint8.
        offset: of the vector in it that the peer's card names.

    Raises:
        OSError: its bell cannot be reached from here.
    """

    def __init__(self, seen: Array, offset: int, bell: BellCard) -> None:
        self._bytes = seen
        self._offset = offset
        self._bell = Ringer(bell)

    def vector(self, span: range, dtype: npt.DTypeLike) -> Array:
        """Return the elements ``span`` of the vector that the peer's card names."""
        item = np.dtype(dtype).itemsize
        start = self._offset + span.start * item
        return self._bytes[start : start + len(span) * item].view(dtype)

    def bytes_at(self, offset: int, count: int) -> Array | None:
        """Return bytes of the peer's memory, None if they are not all in it."""
        inside = offset >= 0 and offset + count <= self._bytes.size
        return self._bytes[offset : offset + count] if inside else None

    def ring(self) -> None:
        """Wake the peer if it sleeps."""
        self._bell.ring()


def open_memory(card: MemoryCard) -> Window:
    """Return the memory of a peer on the same host.

    Raises:
        OSError: it cannot be opened from here, or what is there is not that peer's.
    """
    path = f"/proc/{card.bell.pid}/fd/{card.file}"
    # Read the link before opening: elsewhere this number may be of any process and file.
    link = os.readlink(path)
    if not _NAME.fullmatch(card.name) or card.name not in link:
        raise OSError(0, f"{path} is {link}, not {card.name}")
    file = os.open(path, os.O_RDWR)
    try:
        if os.fstat(file).st_size < card.capacity:  # beyond its end a read is the end of this rank
            raise OSError(0, f"{path} has less than {card.capacity} bytes")
        seen = np.frombuffer(mmap.mmap(file, card.capacity), np.uint8)
    finally:
        os.close(file)
    return Window(seen, card.offset, card.bell)


class Neighbours:
    """What a rank shares with its peers on the same host; without any, nothing is shared."""

    def __init__(
        self, memory: SharedRegion | None = None, windows: Mapping[int, Window] | None = None
    ) -> None:
        assert memory is not None or not windows
        self._memory = memory
        self._windows = dict(windows or {})
        self._opened: dict[int, Window] = {}
        """Of peers that may not have opened this rank's yet."""

    @property
    def shares(self) -> bool:
        """Whether this rank shares memory."""
        return self._memory is not None

    def share(self, memory: SharedRegion) -> None:
        """Share this memory from now on, at a rank that has shared none."""
        assert self._memory is None
        self._memory = memory

    @property
    def card(self) -> MemoryCard | None:
        """What a peer needs to open this rank's memory, if that is the host's."""
        return self._memory.whole if isinstance(self._memory, SharedMemory) else None

    def open(self, peer: int, card: MemoryCard) -> bool:
        """Open a peer's memory, for when it has opened this rank's; say whether that was done.

        Nothing is opened twice, or by a rank that shares none.
        """
        if self.card is None or peer in self._opened or peer in self._windows:
            return False
        with suppress(OSError, ValueError):  # it may be on another host, or no more
            self._opened[peer] = open_memory(card)
        return peer in self._opened

    def seen_by(self, peer: int) -> None:
        """A peer has opened this rank's memory: vectors need not travel if its own is open here."""
        if peer in self._opened:
            self._windows[peer] = self._opened.pop(peer)

    def offset(self, peer: int, raw: Array) -> int:
        """Return where a peer finds these bytes, or FOLLOWS if it cannot see them."""
        if self._memory is None or peer not in self._windows:
            return FOLLOWS
        offset = self._memory.offset(raw)
        return FOLLOWS if offset is None else offset

    def bytes_at(self, peer: int, offset: int, count: int) -> Array:
        """Return bytes of a peer's memory.

        Raises:
            ProtocolError: they are not all in it.
        """
        window = self._windows.get(peer)
        found = None if window is None else window.bytes_at(offset, count)
        if found is None:
            raise ProtocolError(
                f"rank {peer} announced {count} bytes at offset {offset} of shared memory, where "
                "none are shared"
            )
        return found

    def rings(self, peer: int) -> bool:
        """Say whether a peer rings when it sends."""
        return peer in self._windows

    def ring(self, peer: int) -> None:
        """Wake a peer, if it listens to us."""
        if peer in self._windows:
            self._windows[peer].ring()

    @property
    def listen(self) -> Callable[[float], bool] | None:
        """:meth:`SharedRegion.listen`, or None where nobody rings."""
        return self._memory.listen if self._memory is not None and self._windows else None


def same_memory(a: Array, b: Array) -> bool:
    """Say whether two vectors of one size are the same memory of this process."""
    return _address(a) == _address(b)


def _address(vector: Array) -> int:
    # A GPU's array has the second one alone.
    host = getattr(vector, "__array_interface__", None)
    address: int = (host or vector.__cuda_array_interface__)["data"][0]  # type: ignore[attr-defined]
    return address


def _whole_pages(count: int) -> int:
    return -(-count // mmap.PAGESIZE) * mmap.PAGESIZE
