"""Tokens that another program made: which files, checked, and what they are known by."""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from psdp.data.files import printable
from psdp.data.formats import holds_tokens, map_tokens
from psdp.data.sums import Sums, Told, sums_of
from psdp.data.tokens import Shard, Tokens
from psdp.errors import ConfigError, DataError

_LOOKED_AT = 1 << 16
"""Tokens by which the order of a file's bytes is judged."""

_TRAIN, _HELD_OUT = {"train", "training"}, {"val", "valid", "validation"}


@dataclass(frozen=True)
class Chosen:
    """Of some files, those to train on, those that are kept for validation by their names, and
    what is neither."""

    train: tuple[Path, ...]
    val: tuple[Path, ...] = ()
    left_out: tuple[Path, ...] = ()

    def __add__(self, other: Chosen) -> Chosen:
        return Chosen(
            self.train + other.train, self.val + other.val, self.left_out + other.left_out
        )

    def with_val(self, val: tuple[Path, ...]) -> Chosen:
        """Return the same with other files for validation, in place of those that it has."""
        return Chosen(self.train, val, (*self.left_out, *self.val))

    @property
    def all(self) -> tuple[Path, ...]:
        """Those that are read."""
        return self.train + self.val


def chosen_of(files: Sequence[Path]) -> Chosen:
    """Return what a folder is for that holds these files.

    If all its files of tokens are called train or val, as nanoGPT and llm.c call them, what lies
    beside them (a script, the text itself) is left out; else nothing is.
    """
    tokens = [file for file in files if holds_tokens(file)]
    val = [file for file in tokens if _words(file) & _HELD_OUT]
    train = [file for file in tokens if _words(file) & _TRAIN and file not in val]
    if not train or len(train) + len(val) < len(tokens):
        return Chosen(tuple(files))
    return Chosen(tuple(train), tuple(val), tuple(file for file in files if file not in tokens))


def _words(file: Path) -> set[str]:
    return set(re.split(r"[^a-z]+", file.stem.lower()))


@dataclass(frozen=True)
class TokenFiles:
    """Files of tokens, mapped: by number, the file of each shard."""

    files: tuple[Path, ...]
    shards: tuple[Shard, ...]

    @classmethod
    def of(cls, files: Sequence[Path], dtype: str | None) -> TokenFiles:
        """
        Raises:
            ConfigError, DataError: see :func:`psdp.data.formats.map_tokens`.
        """
        return cls(tuple(files), tuple(map_tokens(file, dtype) for file in files))

    @property
    def tokens(self) -> Tokens:
        return Tokens(self.shards)

    @property
    def nbytes(self) -> int:
        return sum(shard.tokens.nbytes for shard in self.shards)

    @property
    def sources(self) -> tuple[str, ...]:
        return tuple(map(printable, self.files))

    def __str__(self) -> str:
        more = f" and {len(self.files) - 1} more" if len(self.files) > 1 else ""
        return f"{self.sources[0]}{more}"

    def check(self, vocab_size: int, told: Told) -> Sums:
        """Return what they hold, in short.

        Raises:
            DataError: one cannot be read, or holds a token outside the vocabulary.
        """
        sums = sums_of(self.shards, told)
        for number, (least, most) in enumerate(zip(sums.least, sums.most, strict=True)):
            if least < 0 or most >= vocab_size:
                raise self._outside(number, vocab_size)
        return sums

    def _outside(self, number: int, vocab_size: int) -> DataError:
        """Return what to tell of a file that holds a token outside the vocabulary."""
        file = self.files[number]
        outside = (
            (first + int(wrong[0]), int(chunk[wrong[0]]))
            for first, chunk in self.shards[number].chunks()
            if (wrong := np.flatnonzero((chunk < 0) | (chunk >= vocab_size))).size
        )
        at, token = next(outside)
        if token < 0:
            advice = "negative tokens mean nothing; write the file again"
        elif (self.shards[number].part(0, _LOOKED_AT).byteswap() < vocab_size).all():
            advice = "it looks big-endian; write it again in little-endian order"
        else:
            advice = "give --vocab-size the size of the vocabulary that the file was made with"
            if file.suffix.lower() == ".bin":
                own = self.shards[number].tokens.dtype.name
                advice += f", or, if it is not of {own}, its type with --token-dtype"
        return DataError(
            f"{file}: token {token} at position {at} is not in the vocabulary of "
            f"{vocab_size} tokens (0 to {vocab_size - 1}); {advice}"
        )


def check_vocabulary_said(left_out: Collection[Path], parts: Sequence[TokenFiles]) -> None:
    """See that the vocabulary's size is not hidden in a pickle that lies beside the tokens.

    Raises:
        ConfigError: it is.
    """
    for file in left_out:
        if file.suffix.lower() in (".pkl", ".pickle"):
            largest = max(max(sums_of(part.shards, lambda _: None).most) for part in parts)
            raise ConfigError(
                f"{file} says what the tokens beside it stand for, but is a pickle, which could "
                "run anything and is never opened; give the size of the vocabulary with "
                f"--vocab-size (the largest token is {largest}, so at least {largest + 1}); "
                "without the pickle a text is the tokens themselves, in decimal"
            )
