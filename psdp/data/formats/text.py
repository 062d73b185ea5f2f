"""Text in a file, as UTF-8, and what else a file is that is none."""

from __future__ import annotations

import codecs
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import numpy as np

from psdp.data.files import printable
from psdp.errors import DataError

PIECE = 1 << 22
"""Bytes of text that are decoded at a time: as characters they are up to four times as many."""

_BYTE_ORDER_MARKS = (
    (codecs.BOM_UTF32_LE, "UTF-32LE"),  # which begins as UTF-16's does
    (codecs.BOM_UTF32_BE, "UTF-32BE"),
    (codecs.BOM_UTF16_LE, "UTF-16LE"),
    (codecs.BOM_UTF16_BE, "UTF-16BE"),
)

# How other files begin, or from which byte on.
_BINARY = (
    (0, b"\x1f\x8b", "compressed by gzip"),
    (0, b"\x28\xb5\x2f\xfd", "compressed by zstd"),
    (0, b"BZh", "compressed by bzip2"),
    (0, b"\xfd7zXZ\0", "compressed by xz"),
    (0, b"7z\xbc\xaf\x27\x1c", "a 7z archive"),
    (0, b"PK\x03\x04", "a zip archive, or a document in one"),
    (257, b"ustar", "a tar archive"),
    (0, b"%PDF-", "a PDF"),
    (0, b"\x89PNG", "an image"),
    (0, b"\xff\xd8\xff", "an image"),
    (0, b"GIF8", "an image"),
    (0, b"\x7fELF", "a program"),
    (0, b"SQLite format 3\0", "a database"),
    (0, b"\x93NUMPY", "a NumPy array"),
    (0, b"\x80\x02", "a pickle"),
    (0, b"\x80\x03", "a pickle"),
    (0, b"\x80\x04", "a pickle"),
    (0, b"\x80\x05", "a pickle"),
)

_LOOKED_AT = 1 << 16
"""Bytes in which NULs and other control characters are counted."""

_CONTROLS = np.array([byte < 32 and chr(byte) not in "\t\n\f\r\x1b" for byte in range(256)])


class NotText(DataError):
    """A file holds something else.

    Attributes:
        file: its name.
        what: it is, as the end of a sentence.
    """

    def __init__(self, file: Path, what: str, advice: str) -> None:
        self.file, self.what = printable(file), what
        super().__init__(f"{self.file} is {what}; {advice}")


def text_of(file: Path, raw: bytes) -> bytes:
    """Return the text of a file that holds ``raw``, in UTF-8, without a byte-order mark.

    Raises:
        NotText: it is none.
    """
    for mark, encoding in _BYTE_ORDER_MARKS:
        if raw.startswith(mark):
            raise _encoded_otherwise(file, encoding)
    _check_nuls(file, raw)
    for start, piece in pieces(raw):
        try:
            piece.decode("utf-8")
        except UnicodeDecodeError as error:
            _check_binary(file, raw)
            _check_controls(file, raw)
            raise NotText(
                file,
                f"not UTF-8: byte 0x{piece[error.start]:02x} at offset {start + error.start} "
                f"({error.reason})",
                "convert it (iconv -t UTF-8) or take it out of the corpus",
            ) from None
    return raw.removeprefix(codecs.BOM_UTF8)


def pieces(utf8: bytes) -> Iterator[tuple[int, bytes]]:
    """Yield where a piece of a text begins, and the piece; characters stay whole."""
    start = 0
    while start < len(utf8):
        end = min(start + PIECE, len(utf8))
        while start + PIECE - 4 < end < len(utf8) and utf8[end] & 0xC0 == 0x80:
            end -= 1
        yield start, utf8[start:end]
        start = end


def _check_nuls(file: Path, raw: bytes) -> None:
    """
    Raises:
        NotText: so many of the bytes are NULs that it is no text, though it may be valid.
    """
    nuls = np.flatnonzero(np.frombuffer(raw, np.uint8, min(len(raw), _LOOKED_AT)) == 0)
    if nuls.size * 10 <= min(len(raw), _LOOKED_AT):
        return
    _check_binary(file, raw)
    places = np.bincount(nuls % 4, minlength=4) * 4 / min(len(raw), _LOOKED_AT)
    # Of the four bytes at the places 0 to 3, those that are almost always NULs.
    match tuple((places > 0.5).tolist()):
        case (False, True, False, True):
            raise _encoded_otherwise(file, "UTF-16LE")
        case (True, False, True, False):
            raise _encoded_otherwise(file, "UTF-16BE")
        case (False, _, True, True):
            raise _encoded_otherwise(file, "UTF-32LE")
        case (True, True, _, False):
            raise _encoded_otherwise(file, "UTF-32BE")
    raise NotText(file, "binary: it is full of NUL bytes", "take it out of the corpus")


def _check_controls(file: Path, raw: bytes) -> None:
    """
    Raises:
        NotText: what is not UTF-8 is no text in another encoding either. Of random bytes, as what
            is compressed looks like, every tenth is a control character; of text none is, but in
            UTF-16, which random bytes are not for long.
    """
    looked_at = raw[:_LOOKED_AT]
    if _CONTROLS[np.frombuffer(looked_at, np.uint8)].mean() <= 0.08:
        return
    for encoding in ("utf-16-le", "utf-16-be"):
        with suppress(UnicodeDecodeError):
            codecs.getincrementaldecoder(encoding)().decode(looked_at)  # it may end in the middle
            return
    raise NotText(file, "binary", "take it out of the corpus")


def _encoded_otherwise(file: Path, encoding: str) -> NotText:
    advice = f"convert it (iconv -f {encoding} -t UTF-8) or take it out of the corpus"
    return NotText(file, f"{encoding}, not UTF-8", advice)


def _check_binary(file: Path, raw: bytes) -> None:
    """
    Raises:
        NotText: it is a file of a kind that is known.
    """
    for at, magic, what in _BINARY:
        if raw.startswith(magic, at):
            raise NotText(file, what, "unpack it, or take it out of the corpus")
