"""What a file holds, unpacked where it is compressed: told by how it begins, not by its name."""

from __future__ import annotations

import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from psdp.data.extra import needed
from psdp.data.files import read_file
from psdp.errors import DataError


@dataclass(frozen=True)
class Packing:
    """A way to compress files.

    Attributes:
        magics: bytes of which some are at the beginning.
        ending: of a name.
        decompressor: returns what unpacks one stream, and is asked for each, and the error that it
            raises; it is handed the file's name.
    """

    magics: tuple[bytes, ...]
    ending: str
    decompressor: Callable[[Path], tuple[Callable[[], Any], type[Exception]]]


def _gzip(file: Path) -> tuple[Callable[[], Any], type[Exception]]:
    return lambda: zlib.decompressobj(wbits=zlib.MAX_WBITS | 16), zlib.error


def _zstd(file: Path) -> tuple[Callable[[], Any], type[Exception]]:
    zstandard = needed("zstandard", f"{file} is compressed by zstd")
    return lambda: zstandard.ZstdDecompressor().decompressobj(), zstandard.ZstdError


_PIECE = 1 << 16
"""Bytes unpacked at a time."""

# Frames of zstd that hold no data: pzstd begins with one.
_SKIPPED = tuple(bytes((first, 0x2A, 0x4D, 0x18)) for first in range(0x50, 0x60))

_PACKINGS = (
    Packing((b"\x1f\x8b",), ".gz", _gzip),
    Packing((b"\x28\xb5\x2f\xfd", *_SKIPPED), ".zst", _zstd),
)


def read_unpacked(file: Path) -> tuple[bytes, str]:
    """Return what a file holds, and the ending of its name but for that of a packing.

    Raises:
        ConfigError: what unpacks it is not installed.
        DataError: it cannot be read, or is damaged.
    """
    raw, name = read_file(file), file
    for packing in _PACKINGS:
        if raw.startswith(packing.magics):
            raw = _unpacked(file, raw, packing)
            name = file.with_suffix("") if file.suffix.lower() == packing.ending else file
            break
    return raw, name.suffix.lower()


def _unpacked(file: Path, raw: bytes, packing: Packing) -> bytes:
    """Return all streams of a file, one after the other."""
    make, failure = packing.decompressor(file)
    stream: Any = None
    found: list[bytes] = []
    # Some at a time: a file may be of very many streams, and each one hands on what follows it.
    for start in range(0, len(raw), _PIECE):
        rest = raw[start : start + _PIECE]
        while rest:
            if stream is None:
                rest = rest.lstrip(b"\0")  # with which gzip may pad
                stream = make() if rest else None
                continue
            try:
                found.append(stream.decompress(rest))
            except failure as error:
                raise DataError(f"{file} is damaged: {error}; copy or pack it again") from None
            rest, stream = (stream.unused_data, None) if stream.eof else (b"", stream)
    if stream is not None:
        raise DataError(f"{file} is cut off; copy or pack it again")
    return b"".join(found)
