"""Tokens in a .bin: raw, as nanoGPT writes them, or after a header, as llm.c and modded-nanogpt do.

A raw one does not say its type. It is uint16 unless a person says otherwise, and what cannot be is
refused: read as uint16, half of what is wider would be zeros.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

import numpy as np

from psdp.data.files import opened
from psdp.data.formats.mapping import check_said, map_row
from psdp.data.tokens import Shard
from psdp.errors import DataError
from psdp.params import Array

_USUAL = "uint16"

# The header is 256 int32: magic, version, the number of tokens, and zeros.
_HEADER = 256 * 4
_KNOWN: Mapping[int, tuple[int, str]] = MappingProxyType(
    {20240520: (1, "<u2"), 20240801: (7, "<u4")}
)

_LOOKED_AT = 1 << 16
"""Tokens by which the type of a raw file is judged."""


def map_bin(file: Path, dtype: str | None) -> Shard:
    """Map a .bin.

    Raises:
        ConfigError, DataError: see :func:`psdp.data.formats.map_tokens`.
    """
    with opened(file) as stream:
        head = stream.read(_HEADER)
        size = os.fstat(stream.fileno()).st_size
    if not size:
        raise DataError(f"{file} is empty")
    first = int.from_bytes(head[:4], "little")
    if first in _KNOWN:
        return _after_header(file, np.frombuffer(head[: len(head) & ~3], "<i4"), size, dtype)
    if int.from_bytes(head[:4], "big") in _KNOWN:
        raise DataError(
            f"{file} has the header of llm.c in big-endian order, which is not read; write it "
            "again on a little-endian machine"
        )
    return _raw(file, size, dtype)


def _after_header(file: Path, header: Array, size: int, said: str | None) -> Shard:
    if header.size < 3:
        raise DataError(f"{file} is cut within its header; copy or write it again")
    magic, version, count = header[:3].tolist()
    known, dtype = _KNOWN[magic]
    if version != known:
        raise DataError(
            f"{file} has the header of llm.c (magic {magic}) in version {version}, of which only "
            f"{known} is known; write it in that one, or as raw tokens"
        )
    check_said(file, said, dtype)
    itemsize = np.dtype(dtype).itemsize
    if count < 1 or size != _HEADER + count * itemsize:
        raise DataError(
            f"{file} says in its header that it holds {count:,} tokens of {itemsize} bytes, and "
            f"has {max(0, size - _HEADER):,} bytes of them: it was cut or added to; copy or write "
            "it again"
        )
    return map_row(file, dtype, offset=_HEADER, count=count)


def _raw(file: Path, size: int, said: str | None) -> Shard:
    dtype = np.dtype(said or _USUAL).newbyteorder("<")
    if size % dtype.itemsize:
        usual = "" if said else " unless --token-dtype says otherwise"
        raise DataError(
            f"{file} has {size} bytes, but a raw .bin is little-endian {said or _USUAL}{usual}, "
            f"{dtype.itemsize} bytes a token; the file is cut off or of another type"
        )
    shard = map_row(file, dtype, offset=0, count=size // dtype.itemsize)
    wider = None if said else _wider_type(shard.part(0, _LOOKED_AT), size)
    if wider is not None:
        raise DataError(
            f"{file} looks like {wider}, not {_USUAL}: read as that, every second token would be "
            f"next to nothing; say its type with --token-dtype {wider} (or {_USUAL}, if it is that)"
        )
    return shard


def _wider_type(tokens: Array, size: int) -> str | None:
    """Return the type of which a file of so many bytes seems to be that was read as uint16; None if
    it does not seem to be another one.

    Ids are small: of each that is wider, the upper halves are zeros, or below 16 in a vocabulary of
    a million. In text of 16 bits such tokens do not stand at every second place.
    """
    for width, name in ((4, "uint64"), (2, "uint32")):
        whole = tokens[: tokens.size // width * width].reshape(-1, width)
        enough = len(whole) >= 32 and size % (2 * width) == 0
        small = (whole[:, 1] < 16).all() and not whole[:, 2:].any()
        if enough and small and np.unique(whole[:, 0]).size > 16:
            return name
    return None
