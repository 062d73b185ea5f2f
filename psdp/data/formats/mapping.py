"""A row of plain numbers in a file, mapped."""

from __future__ import annotations

import mmap
from pathlib import Path

import numpy as np
import numpy.typing as npt

from psdp.data.files import opened
from psdp.data.tokens import Mapped, Shard
from psdp.errors import ConfigError, DataError


def map_row(file: Path, dtype: npt.DTypeLike, *, offset: int, count: int) -> Shard:
    """Return ``count`` numbers of a file, from the byte ``offset`` on.

    Raises:
        DataError: it cannot be read, or is shorter.
    """
    with opened(file) as stream:
        try:
            memory = mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ)
        except ValueError:
            raise DataError(f"{file} is empty") from None
    expected = offset + count * np.dtype(dtype).itemsize
    if len(memory) < expected:
        raise DataError(
            f"{file} is damaged: it was cut to {len(memory):,} of {expected:,} bytes; copy or "
            "write it again"
        )
    return Shard(np.frombuffer(memory, dtype, count, offset), Mapped(file, memory, offset))


def check_said(file: Path, said: str | None, dtype: npt.DTypeLike) -> None:
    """
    Raises:
        ConfigError: a person says another type than the file itself.
    """
    own = np.dtype(dtype)
    if said is not None and np.dtype(said) != own.newbyteorder("="):
        raise ConfigError(
            f"--token-dtype {said} is for raw .bin files, and {file} says itself that it is of "
            f"{own.newbyteorder('=')}; drop the flag"
        )
