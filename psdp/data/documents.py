"""Windows that respect documents: each begins with one, or goes on with a long one, and what
follows its end does not count."""

from __future__ import annotations

import numpy as np

from psdp.data.tokens import CHUNK, Tokens
from psdp.data.windows import Windows
from psdp.errors import DataError
from psdp.params import Array


class Documents(Windows):
    """The windows of all documents in a row of tokens.

    A document ends with its separator, which is a target like any other: so a model learns to end.
    Of every document each token but the first is a counted target exactly once. The row may begin
    and end in the middle of one.
    """

    def __init__(self, tokens: Tokens, separator: Array, block_size: int, split: str) -> None:
        """
        Args:
            separator: the tokens (n,) that end a document, n >= 1.
            split: what the row is called, for an error.

        Raises:
            DataError: no document has a token that follows another one; or a file was cut.
        """
        ends = _ends(tokens, separator)
        begins = np.concatenate(([0], ends))
        empty = np.diff(begins) == separator.size
        ends = np.append(ends, tokens.size)
        targets = np.maximum(ends - begins - 1, 0)
        targets[:-1][empty] = 0
        windows = -(-targets // block_size)
        before = np.cumsum(windows) - windows
        within = np.arange(windows.sum()) - np.repeat(before, windows)
        self._starts = np.repeat(begins, windows) + within * block_size
        left = np.repeat(targets, windows) - within * block_size
        self._lengths = np.minimum(left, block_size).astype(np.int32)
        super().__init__(tokens.size, block_size, self._starts.size, int(targets.sum()))
        if not self.count:
            raise DataError(
                f"the {split} split of {tokens.size} tokens has no document of two tokens or more "
                f"(they end with {separator.tolist()}); take a longer corpus, or --window packed"
            )

    def starts(self, epoch: int, ids: Array) -> Array:
        starts: Array = self._starts[ids]
        return starts

    def counted(self, starts: Array) -> tuple[Array, Array]:
        return np.zeros_like(starts), self._lengths[np.searchsorted(self._starts, starts)]


def _ends(tokens: Tokens, separator: Array) -> Array:
    """Return the places (D,) int64 right after each separator; of those that overlap, the first."""
    length, found = separator.size, []
    for start in range(0, tokens.size - length + 1, CHUNK):
        chunk = np.empty(min(CHUNK + length, tokens.size - start + 1) - 1, np.int64)
        tokens.read(start, chunk)
        places = chunk.size - length + 1
        here = np.ones(places, bool)
        for at, token in enumerate(separator.tolist()):
            here &= chunk[at : at + places] == token
        found.append(start + length + np.flatnonzero(here))
    ends = np.concatenate(found) if found else np.zeros(0, np.int64)
    if (np.diff(ends) >= length).all():
        return ends
    apart: list[int] = []
    for end in ends.tolist():
        if not apart or end - apart[-1] >= length:
            apart.append(end)
    return np.array(apart, np.int64)
