"""The bell by which ranks of one host wake one another: a pipe that one listens to."""

from __future__ import annotations

import contextlib
import errno
import os
import select
import weakref
from dataclasses import dataclass

FD_SETSIZE = 1024
"""What select can listen to; unlike poll it takes timeouts below a millisecond."""


@dataclass(frozen=True)
class BellCard:
    """What a peer needs to ring.

    Attributes:
        pid: of the process that listens.
        file: number of the bell among its open files.
        pipe: what that file is, as links below /proc call it.
    """

    pid: int
    file: int
    pipe: str


class Bell:
    """What wakes this rank when it sleeps.

    Raises:
        OSError: too many files are open.
    """

    def __init__(self) -> None:
        self._end, own_end = os.pipe()  # one end to ring is kept, so that it never ends
        weakref.finalize(self, os.close, self._end)
        weakref.finalize(self, os.close, own_end)
        os.set_blocking(self._end, False)
        if self._end >= FD_SETSIZE:
            raise OSError(errno.EMFILE, f"more than {FD_SETSIZE} files are open")

    def card(self) -> BellCard:
        return BellCard(os.getpid(), self._end, f"pipe:[{os.fstat(self._end).st_ino}]")

    def listen(self, timeout_s: float) -> bool:
        """Sleep until a peer rings, or for so long; say whether one did."""
        if not select.select([self._end], [], [], timeout_s)[0]:
            return False
        os.read(self._end, 1 << 16)
        return True


class Ringer:
    """Rings the bell of a peer on the same host.

    Raises:
        OSError: it cannot be reached from here, or what is there is not that bell.
    """

    def __init__(self, card: BellCard) -> None:
        path = f"/proc/{card.pid}/fd/{card.file}"
        # Read the link before opening: elsewhere this number may be of any process and file.
        link = os.readlink(path)
        if link != card.pipe:
            raise OSError(0, f"{path} is {link}, not {card.pipe}")
        self._end = os.open(path, os.O_WRONLY | os.O_NONBLOCK)
        weakref.finalize(self, os.close, self._end)

    def ring(self) -> None:
        """Wake the peer if it sleeps."""
        # A full pipe has woken it already; a broken one has nobody behind it.
        with contextlib.suppress(BlockingIOError, BrokenPipeError):
            os.write(self._end, b"!")
