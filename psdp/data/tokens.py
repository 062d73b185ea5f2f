"""Rows of tokens in any number of shards, each an array or a map of a file, which are never joined.

Token ids are of any integer type; what is read of them comes in the type of what it is read into.
"""

from __future__ import annotations

import mmap
from bisect import bisect_right
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path

from psdp.data.files import printable
from psdp.errors import DataError
from psdp.params import Array

CHUNK = 1 << 22
"""Tokens looked at one after the other: a mapped corpus may be larger than the memory."""


@dataclass(frozen=True)
class Mapped:
    """A map of a whole file, which would end this process by a bus error where it was cut.

    Attributes:
        begin: the byte where its tokens begin.
    """

    file: Path
    memory: mmap.mmap
    begin: int

    def check(self) -> None:
        """
        Raises:
            DataError: the file is shorter than it was.
        """
        if self.memory.size() < len(self.memory):
            raise self.cut()

    def cut(self) -> DataError:
        """Return what to tell of it when it is."""
        return DataError(
            f"{printable(self.file)} was cut to {self.memory.size():,} of its "
            f"{len(self.memory):,} bytes while it was read; restore it, and go on from the last "
            "checkpoint"
        )


@dataclass(frozen=True)
class Shard:
    """Tokens (N,), in memory or mapped."""

    tokens: Array
    mapped: Mapped | None = None

    def part(self, start: int, stop: int) -> Array:
        """Return these tokens, of which nothing is copied.

        Raises:
            DataError: their file was cut meanwhile.
        """
        if self.mapped is not None:
            self.mapped.check()
        return self.tokens[start:stop]

    def chunks(self) -> Iterator[tuple[int, Array]]:
        """Yield all of them, some at a time, each time with the position of the first."""
        for start in range(0, self.tokens.size, CHUNK):
            yield start, self.part(start, start + CHUNK)


class Tokens:
    """A row of tokens.

    Attributes:
        size: how many.
        shards: what they are made of, none of them empty.
    """

    def __init__(self, shards: Iterable[Shard]) -> None:
        self.shards = tuple(shard for shard in shards if shard.tokens.size)
        places = list(accumulate((shard.tokens.size for shard in self.shards), initial=0))
        self._begins, self._ends = places[:-1], places[1:]
        self.size: int = places[-1]

    @classmethod
    def of(cls, *arrays: Array) -> Tokens:
        """Return these arrays (N,) one after the other."""
        return cls(map(Shard, arrays))

    @classmethod
    def elsewhere(cls, size: int) -> Tokens:
        """Return a row of so many tokens, which cannot be read here."""
        tokens = cls(())
        tokens.size = size
        return tokens

    def part(self, start: int, stop: int) -> Tokens:
        """Return these of the tokens, of which nothing is copied."""
        return Tokens(
            Shard(shard.tokens[max(0, start - first) : max(0, stop - first)], shard.mapped)
            for shard, first in zip(self.shards, self._begins, strict=True)
        )

    def read(self, start: int, into: Array) -> None:
        """Write the tokens from ``start`` on into ``into`` (n,), all of it.

        Raises:
            DataError: a file was cut meanwhile.
        """
        number, end = bisect_right(self._ends, start), start + into.size
        done = 0
        while done < into.size:
            assert number < len(self.shards), "the tokens end before, or are elsewhere"
            first = self._begins[number]
            piece = self.shards[number].part(start + done - first, end - first)
            into[done : done + piece.size] = piece
            done += piece.size
            number += 1
