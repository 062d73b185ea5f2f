"""Tokens that another program made: which files, checked, and what they are known by."""

from __future__ import annotations

import hashlib
import re
import zlib
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from psdp.data.files import printable
from psdp.data.formats import holds_tokens, map_tokens
from psdp.data.tokens import Shard, Tokens
from psdp.errors import ConfigError, DataError
from psdp.params import Array

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

    def check(self, vocab_size: int, told: Callable[[int], object]) -> tuple[str, tuple[str, ...]]:
        """Return the SHA-256 of all tokens as they are stored, and by file what a change is found
        by.

        Args:
            told: is handed the number of bytes that have been read, some at a time.

        Raises:
            DataError: one is not in the vocabulary.
        """
        digest, checks = hashlib.sha256(), []
        for file, shard in zip(self.files, self.shards, strict=True):
            check = 0
            for first, chunk in shard.chunks():
                _check_tokens(file, chunk, first, vocab_size)
                raw = np.ascontiguousarray(chunk).data.cast("B")
                digest.update(raw)
                check = zlib.crc32(raw, check)
                told(raw.nbytes)
            checks.append(f"{check:08x}")
        return digest.hexdigest(), tuple(checks)


def _check_tokens(file: Path, tokens: Array, first: int, vocab_size: int) -> None:
    """
    Args:
        first: the position of the first of these tokens in the file.

    Raises:
        DataError: one is not in the vocabulary.
    """
    bounds = np.iinfo(tokens.dtype)
    if bounds.min == 0 and bounds.max < vocab_size:
        return
    if tokens.max() < vocab_size and (bounds.min == 0 or tokens.min() >= 0):
        return
    at = int(np.flatnonzero((tokens < 0) | (tokens >= vocab_size))[0])
    token = int(tokens[at])
    if token < 0:
        advice = "negative tokens mean nothing; write the file again"
    else:
        advice = "give --vocab-size the size of the vocabulary that the file was made with"
        if file.suffix.lower() == ".bin":
            advice += f", or, if it is not of {tokens.dtype.name}, its type with --token-dtype"
    raise DataError(
        f"{file}: token {token} at position {first + at} is not in the vocabulary of "
        f"{vocab_size} tokens (0 to {vocab_size - 1}); {advice}"
    )


def check_vocabulary_said(left_out: Collection[Path], parts: Sequence[TokenFiles]) -> None:
    """See that the vocabulary's size is not hidden in a pickle that lies beside the tokens.

    Raises:
        ConfigError: it is.
    """
    for file in left_out:
        if file.suffix.lower() in (".pkl", ".pickle"):
            shards = [shard for part in parts for shard in part.shards]
            largest = max(int(chunk.max()) for shard in shards for _, chunk in shard.chunks())
            raise ConfigError(
                f"{file} says what the tokens beside it stand for, but is a pickle, which could "
                "run anything and is never opened; give the size of the vocabulary with "
                f"--vocab-size (the largest token is {largest}, so at least {largest + 1}); "
                "without the pickle a text is the tokens themselves, in decimal"
            )
