"""Tokens in a .npy, which says its type itself."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from psdp.data.files import opened
from psdp.data.formats.mapping import check_said, map_row
from psdp.data.tokens import Shard
from psdp.errors import DataError

# NumPy parses the head of a .npy by ``ast``, in which threads of Python 3.11 meet (gh-106905).
_ONE_BY_ONE = threading.Lock()


def map_npy(file: Path, dtype: str | None) -> Shard:
    """Map a .npy; one that holds a pickle is not opened.

    Raises:
        ConfigError, DataError: see :func:`psdp.data.formats.map_tokens`.
    """
    with opened(file) as stream:
        try:
            with _ONE_BY_ONE:
                shape, in_columns, own = _head(stream)
            offset = stream.tell()
        except OSError:
            raise
        except Exception as error:
            # A header is parsed as a Python literal, so damage shows as almost any exception.
            raise DataError(
                f"{file} is damaged or no .npy of plain numbers ({error}); write a 1-D integer "
                "array with numpy.save"
            ) from None
    if len(shape) != 1 or own.kind not in "ui":
        order = " in Fortran order" if in_columns else ""
        raise DataError(
            f"{file}: expected a 1-D integer array, got {own} of shape {shape}{order}; write one "
            "row, in the order of the text, with numpy.save"
        )
    if in_columns:
        raise DataError(
            f"{file}: expected a row of tokens, got one in Fortran order; write it again"
        )
    if not shape[0]:
        raise DataError(f"{file} holds no tokens")
    check_said(file, dtype, own)
    return map_row(file, own, offset=offset, count=shape[0])


def _head(stream: BinaryIO) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    """Return the shape, whether it is in Fortran order, and the type; the file is at its data
    then.

    Raises:
        ValueError: it is none of plain numbers.
    """
    version = np.lib.format.read_magic(stream)
    if version not in _HEADS:
        raise ValueError(f"version {version}")
    shape, in_columns, dtype = _HEADS[version](stream)
    if dtype.hasobject:
        raise ValueError("it holds Python objects")
    return shape, in_columns, dtype


_HEADS = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
