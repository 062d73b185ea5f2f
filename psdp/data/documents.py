"""Windows that respect documents: each begins with one, or goes on with a long one, and what
follows its end does not count."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from psdp.data.tokens import CHUNK, Tokens
from psdp.data.windows import Windows
from psdp.errors import DataError
from psdp.params import Array


@dataclass(frozen=True)
class Marks:
    """What tells documents apart in a row of tokens.

    Attributes:
        end: the tokens (n,) that end each, n >= 1.
        prompt: those that end its prompt, where it has one; None: none has.
    """

    end: Array
    prompt: Array | None = None


class Documents(Windows):
    """The windows of all documents in a row of tokens.

    A document ends with its separator, which is a target like any other: so a model learns to end.
    Of every document each token but the first is a counted target exactly once, or, if it has a
    prompt, each that follows what ends that. The row may begin and end in the middle of one.
    """

    def __init__(self, tokens: Tokens, marks: Marks, block_size: int, split: str) -> None:
        """
        Args:
            split: what the row is called, for an error.

        Raises:
            DataError: no document has a token that follows another one, or none has a prompt where
                there should be some; or a file was cut.
        """
        ends = np.append(_places_after(tokens, marks.end), tokens.size)
        begins = np.append(0, ends[:-1])
        targets = begins + 1  # the first of each that counts
        if marks.prompt is not None:
            found = _places_after(tokens, marks.prompt)
            if not found.size:
                raise DataError(
                    f"no document of the {split} split has a prompt, which ends with the tokens "
                    f"{marks.prompt.tolist()}; see --prompt-separator"
                )
            after = np.append(found, np.iinfo(np.int64).max)
            after = after[np.searchsorted(found, begins + marks.prompt.size)]
            targets = np.where(after <= ends, after, targets)
        windows = np.maximum(-(-(ends - begins - 1) // block_size), 0)
        windows[:-1][(ends - begins)[:-1] == marks.end.size] = 0  # of nothing but an end
        document = np.repeat(np.arange(windows.size), windows)
        nth = np.arange(document.size) - (np.cumsum(windows) - windows)[document]
        starts = begins[document] + nth * block_size
        first = np.maximum(targets[document] - 1 - starts, 0)
        end = np.minimum(ends[document] - 1 - starts, block_size)
        some = end > first  # of a window within a prompt nothing counts
        self._starts = starts[some]
        self._first, self._end = first[some].astype(np.int32), end[some].astype(np.int32)
        units = int((self._end - self._first).sum(dtype=np.int64))
        super().__init__(tokens.size, block_size, self._starts.size, units)
        if not self.count:
            raise DataError(
                f"the {split} split of {tokens.size} tokens has no document of two tokens or more "
                f"(they end with {marks.end.tolist()}); take a longer corpus, or --window packed"
            )

    def starts(self, epoch: int, ids: Array) -> Array:
        starts: Array = self._starts[ids]
        return starts

    def counted(self, starts: Array) -> tuple[Array, Array]:
        ids = np.searchsorted(self._starts, starts)
        return self._first[ids], self._end[ids]


def _places_after(tokens: Tokens, separator: Array) -> Array:
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
