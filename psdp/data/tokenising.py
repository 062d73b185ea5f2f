"""Documents to tokens, some at a time, by all cores where the tokenizer can."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from enum import Enum, auto

import numpy as np

from psdp.data.texts import SEPARATOR
from psdp.data.tokenizer import Tokenizer, smallest_dtype
from psdp.params import Array

PIECE, BATCH = 1 << 18, 1 << 22
"""Bytes of a text that are tokenised as one where it makes no difference, and characters that are
in hand."""

_BLANKS = [re.escape(chr(point).encode()) for point in range(0x3001) if chr(point).isspace()]
"""All that there are, in UTF-8."""

# Of a line that ends and one that begins, with no other blank beside: no token goes across.
_CUT = re.compile(b"".join(map(b"(?<!%s)".__mod__, _BLANKS)) + rb"\n(?!%s|\Z)" % b"|".join(_BLANKS))


def tokens_of(
    tokenizer: Tokenizer,
    documents: Iterable[bytes],
    between: Array,
    prompt_separator: str | None = None,
) -> Iterator[Array]:
    """Yield the tokens of documents in UTF-8, one after the other, ``between`` (n,) after each but
    the last. What ends a prompt has the same tokens in all of them."""
    ends_prompt = None if prompt_separator is None else tokenizer.encode(prompt_separator)
    pieces = _pieces(documents, prompt_separator, cut=tokenizer.cuts_at_lines)
    before = {_Begins.DOCUMENT: between, _Begins.TEXT: ends_prompt}
    for batch in _batches(pieces):
        rows = tokenizer.encode_all([piece for _, piece in batch])
        for (begins, _), row in zip(batch, rows, strict=True):
            if (tokens := before.get(begins)) is not None:
                yield tokens
            yield row


class _Begins(Enum):
    """What begins with a piece: a document that is not the first, or what follows a prompt."""

    DOCUMENT = auto()
    TEXT = auto()
    NOTHING = auto()


_Piece = tuple[_Begins, str]


def _pieces(
    documents: Iterable[bytes], prompt_separator: str | None, *, cut: bool
) -> Iterator[_Piece]:
    """Yield what begins with each piece of the documents, and the piece."""
    begins = _Begins.NOTHING
    mark = None if prompt_separator is None else prompt_separator.encode("utf-8")
    for document in documents:
        for part in [document] if mark is None else document.split(mark, 1):
            for text in cut_at_lines(part) if cut else [part.decode("utf-8")]:
                yield begins, text
                begins = _Begins.NOTHING
            begins = _Begins.TEXT
        begins = _Begins.DOCUMENT


def cut_at_lines(utf8: bytes) -> Iterator[str]:
    """Yield a text in pieces across which no token goes; see :attr:`Tokenizer.cuts_at_lines`. As
    characters it may be four times as long as its bytes, so it is never decoded as a whole."""
    start = 0
    while found := _CUT.search(utf8, start + PIECE):
        yield utf8[start : found.end()].decode("utf-8")
        start = found.end()
    yield utf8[start:].decode("utf-8")


def _batches(pieces: Iterable[_Piece]) -> Iterator[list[_Piece]]:
    batch: list[_Piece] = []
    size = 0
    for piece in pieces:
        batch.append(piece)
        size += len(piece[1])
        if size >= BATCH:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


def separator_of(tokenizer: Tokenizer, said: str | None) -> Array:
    """Return the tokens (n,) between two documents: of what is said, or else the end of a text, or
    a newline."""
    if said is None and tokenizer.end_of_text is not None:
        return np.array([tokenizer.end_of_text], smallest_dtype(tokenizer.vocab_size))
    return tokenizer.encode(SEPARATOR if said is None else said)
