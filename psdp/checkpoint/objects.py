"""What lies under a URL, by fsspec: written, read, listed and removed. Every failure is one line.

Nothing here knows what the objects are. Stores without folders and file systems with them are
served alike; whether an object appears whole or bit by bit is the store's affair.
"""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from typing import Any, BinaryIO, TypeVar

from psdp.checkpoint.durable import writing
from psdp.errors import CheckpointError, ConfigError
from psdp.processes import patiently
from psdp.terminal import masked

T = TypeVar("T")

PART_BYTES = 5 * 1024 * 1024
"""Of a larger object's parts as they are sent: the least that S3 takes, so that a slow link has one
through before anybody loses patience."""

MOST_PARTS = 9000
"""S3 takes 10,000."""

READ_BYTES = 2 * 1024 * 1024

PART_S = 60.0
"""How long a part may take that lies in the buffers of a slow link."""

ANSWER_S = 60.0
"""How long a store may take to do a small thing."""

GOES_ON_S = 300.0
"""How long a store, or a disk, may take to go on with a large one."""

_LONG = 300


class NotWhole(CheckpointError):
    """An object is not what was sent."""


class Absent(NotWhole):
    """There is no such object."""


class Objects:
    """The objects under a URL, by their names, which have slashes.

    Raises:
        ConfigError: fsspec, or the package that it needs for this protocol, is not installed, or
            there is no such protocol.
        CheckpointError: of this and of all methods: the store refuses, in a line that names the
            object and the reason.
    """

    def __init__(self, url: str) -> None:
        self.url = url.rstrip("/")
        try:
            from fsspec.core import url_to_fs
        except ImportError:
            raise ConfigError(f"{url} needs fsspec: pip install 'psdp[remote]'") from None
        try:
            self._fs, self._root = url_to_fs(self.url)
        except (ImportError, TypeError, ValueError) as error:
            raise ConfigError(f"{url} cannot be reached: {reason(error)}") from error
        except Exception as error:  # some connect at once
            raise CheckpointError(f"{url}: {reason(error)}") from error
        if hasattr(self._fs, "read_timeout"):  # of S3, where it counts while a part is on its way
            self._fs.read_timeout = max(self._fs.read_timeout, PART_S)
        self.moved_bytes = 0
        """So far, to and fro; grows while an object is on its way."""
        self._made: set[str] = set()

    def write(self, name: str, chunks: Iterable[bytes], size: int = 0) -> None:
        """Write an object of about so many bytes. After a failure there may be a part of it, or
        what there was before."""
        with _asking(self.called(name)):
            self._make_folders(name)
            part = max(PART_BYTES, -(-size // MOST_PARTS))
            file = self._fs.open(self._path(name), "wb", block_size=part)
            try:
                for chunk in chunks:
                    file.write(chunk)
                    self.moved_bytes += len(chunk)
                file.close()
            except BaseException:
                _drop(file)
                raise

    def read(self, name: str) -> Iterator[bytes]:
        """Yield an object's content in chunks.

        Raises:
            Absent: it is not there.
        """
        path = self._path(name)
        with _asking(self.called(name)):
            self._fs.invalidate_cache()
            size = int(self._fs.info(path)["size"])
        for start in range(0, size, READ_BYTES):
            with _asking(self.called(name)):
                chunk = self._fs.cat_file(path, start=start, end=min(start + READ_BYTES, size))
            self.moved_bytes += len(chunk)
            yield chunk

    def content(self, name: str) -> bytes:
        """Return an object's content, all at once.

        Raises:
            Absent: it is not there.
        """
        with _asking(self.called(name)):
            return bytes(self._fs.cat_file(self._path(name)))

    def fetch(self, name: str, size: int, sha256: str, into: BinaryIO | None = None) -> None:
        """Read an object that is to have this size and hash; write it into a file, if there is one.

        Raises:
            NotWhole: it is not there, or is another.
        """
        found, got = 0, hashlib.sha256()
        for chunk in self.read(name):
            found += len(chunk)
            got.update(chunk)
            if into is not None:
                with writing(into.name):
                    into.write(chunk)
        called = self.called(name)
        if found != size:
            raise NotWhole(f"{called} is damaged: expected {size} bytes, got {found}")
        if got.hexdigest() != sha256:
            raise NotWhole(f"{called} is damaged: expected sha256 {sha256}, got {got.hexdigest()}")

    def names(self, folder: str) -> list[str]:
        """Return the names of what is directly in a folder, in order.

        Raises:
            Absent: there is no such folder.
        """
        with _asking(self.called(folder)):
            self._fs.invalidate_cache()
            found = self._fs.ls(self._path(folder), detail=False)
        return sorted({path.rstrip("/").rpartition("/")[2] for path in found})

    def remove(self, name: str) -> None:
        """Remove an object, if it is there."""
        with suppress(Absent), _asking(self.called(name)):
            self._fs.rm_file(self._path(name))

    def remove_folder(self, name: str) -> None:
        """Remove a folder with all that is in it, if it is there."""
        with suppress(Absent), _asking(self.called(name)):
            self._fs.invalidate_cache()
            self._fs.rm(self._path(name), recursive=True)
        self._made = {made for made in self._made if not f"{made}/".startswith(f"{name}/")}

    def called(self, name: str) -> str:
        """Return what a person calls an object."""
        return f"{self.url}/{name}"

    def _path(self, name: str) -> str:
        return f"{self._root}/{name}"

    def _make_folders(self, name: str) -> None:
        """Make the folders that an object lies in, down from the URL's own, where a store has
        folders; never what that lies in, nor a bucket."""
        folder = ""
        for part in ("", *name.split("/")[:-1]):
            folder = f"{folder}/{part}" if folder else part
            if folder in self._made or not (folder or "/" in self._root.strip("/")):
                continue
            with suppress(FileExistsError):
                self._fs.mkdir(f"{self._root}/{folder}".rstrip("/"), create_parents=False)
            self._made.add(folder)


def _drop(file: Any) -> None:
    """Give up an object that is half written; one that is still open would be completed when it is
    collected."""
    with suppress(Exception):
        file.discard()
    try:
        file.closed = True
    except AttributeError:  # a file of this system
        with suppress(Exception):
            file.close()


@contextmanager
def _asking(what: str) -> Iterator[None]:
    """Turn whatever goes wrong in the block, of which every store has classes of its own, into a
    CheckpointError that names what was asked for and the reason."""
    try:
        yield
    except (CheckpointError, ConfigError):
        raise
    except FileNotFoundError as error:
        said = reason(error)
        nothing = what.endswith(said.strip("/"))  # but a path
        raise Absent(f"{what}: {'there is nothing' if nothing else said}") from error
    except Exception as error:
        raise CheckpointError(f"{what}: {reason(error)}") from error


def reason(error: Exception) -> str:
    """Return why something failed, in a line without passwords."""
    said = getattr(error, "strerror", None) or str(error)
    text = " ".join(masked(said).split()) or type(error).__name__
    return text if len(text) <= _LONG else f"{text[: _LONG - 3]}..."


def answered(
    url: str,
    ask: Callable[[], T],
    moved: Callable[[], int] = lambda: 0,
    patience_s: float = ANSWER_S,
) -> T:
    """Return what ``ask()`` does of a store at this URL, which may not answer at all.

    Args:
        moved: returns how far it is with what takes long.

    Raises:
        CheckpointError: nothing has come of it for ``patience_s``.
        BaseException: as ``ask`` does.
    """
    results: list[T] = []
    errors: list[BaseException] = []

    def run() -> None:
        try:
            results.append(ask())
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=run, name="psdp-elsewhere", daemon=True)

    def ended(wait_s: float) -> bool:
        thread.join(wait_s)
        return not thread.is_alive()

    thread.start()
    before = -1
    while thread.is_alive() and before != moved():
        before = moved()
        patiently(ended, patience_s)
    if errors:
        raise errors[0]
    if not results:
        raise CheckpointError(f"{url} has not answered for {patience_s:g} s")
    return results[0]
