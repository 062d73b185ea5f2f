"""Opening what stands where a file of a checkpoint should: it may be anything."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from io import BufferedReader
from pathlib import Path


@contextmanager
def open_regular(path: Path) -> Iterator[BufferedReader]:
    """Open a file for reading, at once: of a pipe, say, the end might never come.

    Raises:
        OSError: it cannot be opened, or is no regular file.
    """
    with open(path, "rb", opener=lambda name, flags: os.open(name, flags | os.O_NONBLOCK)) as file:
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            raise OSError(errno.EINVAL, "not a regular file", str(path))
        yield file
