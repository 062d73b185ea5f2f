"""A folder that appears when all of it is there."""

from __future__ import annotations

import fcntl
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from psdp.errors import PsdpError


@contextmanager
def appearing(folder: Path, refusal: type[PsdpError]) -> Iterator[Path]:
    """Yield a folder to write into, which is ``folder`` when the block ends well, and gone if not.
    What processes of this kind have left that were killed meanwhile goes too.

    Raises:
        PsdpError: of the kind ``refusal``; it is there already and not empty, or cannot be written.
    """
    target = Path(os.path.realpath(folder))
    beside = target.parent / f".{target.name}.psdp-{os.getpid()}"
    try:
        if os.path.lexists(folder) and not folder.is_dir():
            raise refusal(f"{folder} is no folder; choose another, or remove it")
        if folder.exists() and any(folder.iterdir()):
            raise refusal(f"{folder} is not empty; choose another folder, or remove it")
        _clear(target)
        beside.mkdir(parents=True)
        with _held(beside):
            yield beside
            beside.rename(target)
    except OSError as error:
        raise refusal(f"{folder} cannot be written: {told_of(error)}") from None
    finally:
        shutil.rmtree(beside, ignore_errors=True)


def told_of(error: OSError) -> str:
    """Return what to tell of a file or folder that cannot be written. Some libraries only say how
    much could be."""
    return error.strerror or f"{error} (is the disk full?)"


def _clear(target: Path) -> None:
    """Remove the folders beside one that were to become it and that nobody holds any more."""
    ours = re.compile(rf"\.{re.escape(target.name)}\.psdp-\d+")
    with suppress(OSError):
        for left in filter(lambda path: ours.fullmatch(path.name), target.parent.iterdir()):
            with suppress(OSError), _held(left) as held:
                if held:
                    shutil.rmtree(left)


@contextmanager
def _held(folder: Path) -> Iterator[bool]:
    """Hold a folder, as long as this process lives; say whether that can be: no other process does,
    and its file system knows locks."""
    opened = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        held = True
        try:
            fcntl.flock(opened, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            held = False
        yield held
    finally:
        os.close(opened)
