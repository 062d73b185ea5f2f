"""Documents to tokens, some at a time, by all cores where the tokenizer can."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

import numpy as np

from psdp.data.texts import SEPARATOR
from psdp.data.tokenizer import Tokenizer, smallest_dtype
from psdp.params import Array

PIECE, BATCH = 1 << 18, 1 << 22
"""Characters that are tokenised as one where it makes no difference, and that are in hand."""

# Of a line that ends and one that begins, with no other blank beside: no token goes across.
_CUT = re.compile(r"(?<=\S)\n(?=\S)")


def tokens_of(tokenizer: Tokenizer, documents: Iterable[bytes], between: Array) -> Iterator[Array]:
    """Yield the tokens of documents in UTF-8, one after the other, ``between`` (n,) after each but
    the last."""
    for batch in _batches(_pieces(documents, cut=tokenizer.cuts_at_lines)):
        rows = tokenizer.encode_all([piece for _, piece in batch])
        for (begins, _), row in zip(batch, rows, strict=True):
            if begins:
                yield between
            yield row


def _pieces(documents: Iterable[bytes], *, cut: bool) -> Iterator[tuple[bool, str]]:
    """Yield whether a document begins that is not the first, and a piece of it."""
    for number, document in enumerate(documents):
        text, start, begins = document.decode("utf-8"), 0, number > 0
        while cut and (found := _CUT.search(text, start + PIECE)):
            yield begins, text[start : found.end()]
            start, begins = found.end(), False
        yield begins, text[start:]


def _batches(pieces: Iterable[tuple[bool, str]]) -> Iterator[list[tuple[bool, str]]]:
    batch: list[tuple[bool, str]] = []
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
