"""A folder that appears when all of it is there."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from psdp.errors import PsdpError


@contextmanager
def appearing(folder: Path, refusal: type[PsdpError]) -> Iterator[Path]:
    """Yield a folder to write into, which is ``folder`` when the block ends well, and gone if not.

    Raises:
        PsdpError: of the kind ``refusal``; it is there already and not empty, or cannot be written.
    """
    beside = folder.parent / f".{folder.name}.{os.getpid()}"
    try:
        if folder.exists() and any(folder.iterdir()):
            raise refusal(f"{folder} is not empty; choose another folder, or remove it")
        beside.mkdir(parents=True)
        yield beside
        beside.rename(folder)
    except OSError as error:
        raise refusal(f"{folder} cannot be written: {error.strerror or error}") from None
    finally:
        shutil.rmtree(beside, ignore_errors=True)
