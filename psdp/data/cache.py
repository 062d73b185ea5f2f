"""What was worked out of a corpus, kept: one process of a host does it for all, once."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import IO

from psdp.errors import DataError
from psdp.processes import patiently

_AGAIN_S = 0.05
"""After how long a lock is tried again."""


class NoCache(DataError):
    """Nothing can be kept."""


def kept_at(kind: str, *parts: object) -> Path:
    """Return where what is of this kind, and follows from these parts (plain JSON), is kept."""
    base = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    key = hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()
    return Path(base, "psdp", f"{kind}-{key[:32]}")


@contextmanager
def alone(kept: Path) -> Iterator[None]:
    """Let no other process of this host make the same meanwhile; who comes later finds it.

    Raises:
        NoCache: nothing can be written there.
    """
    try:
        kept.parent.mkdir(parents=True, exist_ok=True)
        with Path(f"{kept}.lock").open("w") as lock:
            with suppress(OSError):  # a file system without locks: both make it, and one is kept
                patiently(partial(_is_locked, lock))
            yield
    except OSError as error:
        raise NoCache(
            f"{kept} cannot be written: {error.strerror}; set XDG_CACHE_HOME to a folder that can"
        ) from None


def _is_locked(lock: IO[str], wait_s: float) -> bool:
    """Say whether a file could be locked; if another process has it, after a while."""
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        time.sleep(min(wait_s, _AGAIN_S))
        return False
    return True


def keep(kept: Path, text: str) -> None:
    """Write a file that appears when it is whole."""
    beside = Path(f"{kept}.{os.getpid()}")
    try:
        beside.write_text(text, encoding="utf-8")
        beside.replace(kept)
    finally:
        beside.unlink(missing_ok=True)
