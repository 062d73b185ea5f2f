"""The files that a person names: found, and told apart from what can be no corpus.

Folders are walked in an order that every rank has, and what is hidden is skipped, as is what psdp
itself wrote. A link to a folder outside is followed, once; one to a folder that is read anyway is
not.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from io import BufferedReader
from pathlib import Path

from psdp.errors import DataError

# Names that together are a run folder's, a report's, or those of a folder of tokens.
_WRITTEN_HERE = (
    {"config.json", "lock.json"},
    {"config.json", "metrics.jsonl"},
    {"report.html", "runs.csv", "curves.csv"},
    {"tokens.json", "tokens-000000.npy"},
)


class MissingFile(DataError):
    """What is named is not there."""


@dataclass(frozen=True)
class Found:
    """Files, sorted by their path, and the folders that were left out since psdp wrote them."""

    files: tuple[Path, ...]
    own: tuple[Path, ...] = ()


def find_files(path: Path) -> Found:
    """Return the regular files that ``path`` names: itself, or all in the folder.

    Hidden files and folders inside a folder are skipped.

    Raises:
        DataError: it is missing, unreadable, an empty folder, or something that is no file: a
            FIFO would block, and gives its bytes to one rank only.
    """
    if not is_folder(path):
        _check_regular(path)
        return Found((path,))
    found = walk(path, lambda name: not name.startswith("."), follow=True)
    if not found.files:
        own = " and folders that psdp wrote" if found.own else ""
        raise DataError(f"folder {path} holds no files (hidden ones{own} are skipped)")
    for file in found.files:
        _check_regular(file)
    return found


def is_folder(path: Path) -> bool:
    """Say whether a path is one of a folder.

    Raises:
        DataError: nothing is there, or it cannot be looked at.
    """
    return _mode_is(path, stat.S_ISDIR)


def walk(root: Path, wanted: Callable[[str], bool], *, follow: bool = False) -> Found:
    """Return the files below ``root`` whose path has only ``wanted`` names.

    Args:
        follow: links to folders, after all that is there without them.

    Raises:
        DataError: a folder cannot be read.
    """
    found: list[Path] = []
    own: list[Path] = []
    seen: set[tuple[int, int]] = set()
    ahead = [str(root)]

    def fail(error: OSError) -> None:
        raise unreadable(error.filename, error)

    for start in ahead:  # which grows
        for folder, folders, names in os.walk(start, onerror=fail):
            folders[:] = sorted(filter(wanted, folders))
            if _seen_before(Path(folder), seen):
                folders.clear()
            elif _written_here(names):
                own.append(Path(folder))
                folders.clear()
            else:
                found += [Path(folder, name) for name in filter(wanted, names)]
                ahead += [link for link in _links(folder, folders, root) if follow]
    return Found(_sorted(found, root), _sorted(own, root))


def _links(folder: str, names: Collection[str], root: Path) -> list[str]:
    """Return those of the folders in a folder that are links, but not to where it is in itself."""
    links = filter(os.path.islink, (os.path.join(folder, name) for name in names))
    return [link for link in links if Path(link).resolve() not in _way_to(root)]


def _way_to(root: Path) -> set[Path]:
    return {root.resolve(), *root.resolve().parents}


def _sorted(paths: Collection[Path], root: Path) -> tuple[Path, ...]:
    return tuple(sorted(paths, key=lambda path: path.relative_to(root).as_posix()))


def _seen_before(folder: Path, seen: set[tuple[int, int]]) -> bool:
    """Say whether a folder is among those that were seen, to which it belongs from now on."""
    at = _stat(folder)
    before = (at.st_dev, at.st_ino) in seen
    seen.add((at.st_dev, at.st_ino))
    return before


def _written_here(names: Collection[str]) -> bool:
    """Say whether a folder with files of these names is one that psdp wrote."""
    return any(marks <= {*names} for marks in _WRITTEN_HERE)


def _check_regular(file: Path) -> None:
    if is_folder(file):
        raise DataError(f"{file} is a folder, where a file is needed")
    if not _mode_is(file, stat.S_ISREG):
        raise DataError(
            f"{file} is not a regular file (a FIFO, socket or device); every rank reads the corpus "
            "by itself, so copy it to a file"
        )


def _mode_is(path: Path, kind: Callable[[int], bool]) -> bool:
    return kind(_stat(path).st_mode)


def _stat(path: Path) -> os.stat_result:
    try:
        return path.stat()
    except OSError as error:
        raise unreadable(path, error) from None


def size_of(file: Path) -> int:
    """Return the size of a file, in bytes.

    Raises:
        DataError: it cannot be looked at.
    """
    return _stat(file).st_size


@contextmanager
def opened(file: Path) -> Iterator[BufferedReader]:
    """Open a file to read it.

    Raises:
        DataError: it cannot be read, or is no regular file.
    """
    _check_regular(file)
    try:
        with file.open("rb") as stream:
            yield stream
    except OSError as error:
        raise unreadable(file, error) from None


def read_file(file: Path) -> bytes:
    """Return what a file holds.

    Raises:
        DataError: it cannot be read.
    """
    with opened(file) as stream:
        return stream.read()


def head_of(file: Path, count: int) -> bytes:
    """Return the first bytes of a file.

    Raises:
        DataError: it cannot be read.
    """
    with opened(file) as stream:
        return stream.read(count)


def unreadable(path: str | Path, error: OSError) -> DataError:
    """Return what to tell of a file or folder that cannot be read."""
    if isinstance(error, FileNotFoundError) and os.path.islink(path):
        return MissingFile(
            f"{path} is a link to {os.readlink(path)}, which does not exist; restore that, or take "
            "the link out of the corpus"
        )
    if error.errno == errno.ELOOP:
        return DataError(f"{path} is a link that leads back to itself; take it out of the corpus")
    if isinstance(error, FileNotFoundError):
        return MissingFile(
            f"{path} does not exist (looked from {Path.cwd()}); on a cluster, every node needs it "
            "under the same path"
        )
    advice = "check its permissions" if isinstance(error, PermissionError) else "give another file"
    return DataError(f"{path} cannot be read: {error.strerror or error}; {advice}")


def printable(path: str | Path) -> str:
    """Return a path as text that can be printed and kept, whatever bytes its name has."""
    return os.fsencode(path).decode("utf-8", "backslashreplace")
