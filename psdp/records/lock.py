"""Who writes a run folder: one job at a time.

The kernel locks ``lock.json`` (flock) for the process of rank 0, and lets go of it when that ends,
however it ends. Where a lock can be lost while its holder lives (a lease of NFS that ran out while
a host slept; a file that somebody removed; a file system without locks), the next job takes over:
it writes a token of its own, by which the one before finds, before it writes, that it is late.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import secrets
import socket
import sys
import time
import weakref
from pathlib import Path
from typing import Any

from psdp.errors import CheckpointError

LOCK = "lock.json"

_HELD = (errno.EAGAIN, errno.EACCES)  # NFS has the errors of fcntl's locks
_NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP)


class RunLock:
    """The lock on a run folder, held until :meth:`release` or the end of this process.

    Args:
        after: of a rank of the same job that is lost, the token: what it held is taken over.

    Attributes:
        folder: that is held.
        token: of this holder; no two have the same.

    Raises:
        CheckpointError: another job holds it, or it cannot be written.
    """

    def __init__(self, folder: Path, after: str | None = None) -> None:
        self.folder = folder
        self.token = secrets.token_hex(8)
        if after is not None and _holder(folder / LOCK).get("token") != after:
            raise _late(folder)
        self._path = folder / LOCK
        holder = {
            "token": self.token,
            "host": socket.gethostname(),
            "pid": os.getpid(),
            "since": time.strftime("%Y-%m-%d %H:%M:%S %z"),
        }
        try:
            descriptor = _locked(self._path, insists=after is None)
            self._close = weakref.finalize(self, os.close, descriptor)
            # In place: the lock is on this very file.
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, json.dumps(holder).encode() + b"\n", 0)
            os.fsync(descriptor)
        except OSError as error:
            raise CheckpointError(f"cannot write {self._path}: {error.strerror}") from error

    def check(self) -> None:
        """See that no other job holds the folder now.

        Raises:
            CheckpointError: one does, or that cannot be known.
        """
        if _holder(self._path).get("token") != self.token:
            raise _late(self.folder)

    def release(self) -> None:
        """Let others have the folder."""
        self._close()


def _late(folder: Path) -> CheckpointError:
    return CheckpointError(
        f"{folder} is not this job's any more: its lock was lost, and {_who(folder / LOCK)} has "
        "it; nothing more is written there"
    )


def _locked(path: Path, *, insists: bool) -> int:
    """Return the descriptor of the file, locked; who does not insist has it too where a process
    that is stopped, or whose host is gone, still seems to hold it.

    Raises:
        CheckpointError: another process has locked it.
        OSError: it cannot be opened.
    """
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno in _HELD and not insists:
                return descriptor
            if error.errno not in _NO_LOCKS:
                os.close(descriptor)
                if error.errno in _HELD:
                    raise _held(path) from None
                raise
            print(
                f"psdp: {path.parent} cannot be locked here ({error.strerror}): see that no other "
                "job uses it; one that does takes it over",
                file=sys.stderr,
                flush=True,
            )
        if _is_at(descriptor, path):
            return descriptor
        os.close(descriptor)  # it was removed meanwhile


def _is_at(descriptor: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except FileNotFoundError:
        return False


def _held(path: Path) -> CheckpointError:
    return CheckpointError(
        f"{path.parent} is in use by {_who(path)}; wait for that job to end, or end it. If "
        f"its host is gone, a network file system may take minutes to notice; remove {path} to "
        "take the folder over at once"
    )


def _who(path: Path) -> str:
    holder = _holder(path)
    if not holder.keys() >= {"pid", "host", "since"}:
        return "another job"
    return "a job whose rank 0 is process {pid} on {host} since {since}".format(**holder)


def _holder(path: Path) -> dict[str, Any]:
    """Return what a lock file says; nothing of one that is gone or not whole."""
    try:
        content = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}
