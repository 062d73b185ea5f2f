"""A folder of shards of tokens with an account of them: of which tokenizer they are, how many, and
what each file holds, by a hash. Who has that need not read them before training."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from psdp.appearing import appearing
from psdp.data.files import printable, read_file
from psdp.data.formats.npy import map_npy
from psdp.data.subwords import tokenizer_of
from psdp.data.tokenizer import Tokenizer, smallest_dtype
from psdp.data.tokens import Shard
from psdp.errors import DataError
from psdp.params import Array

ACCOUNT = "tokens.json"
FORMAT = 1

SHARD_TOKENS = 1 << 26
"""In a file, unless it is said how many."""


@dataclass(frozen=True)
class TokenFolder:
    """What the account says.

    Attributes:
        sha256: of the tokenizer and of all tokens.
        files: the shards' names and how many tokens each has.
        text_bytes: of the texts that the tokens are of.
    """

    folder: Path
    tokenizer: Tokenizer
    sha256: str
    files: Mapping[str, int]
    checks: tuple[str, ...]
    text_bytes: int

    @classmethod
    def read(cls, folder: Path) -> TokenFolder:
        """Return what the account in a folder says; no shard is opened.

        Raises:
            ConfigError: a library that the tokenizer needs is not installed.
            DataError: the account or the tokenizer cannot be read, or is of another kind.
        """
        path = folder / ACCOUNT
        try:
            account = json.loads(read_file(path))
            version = account["format"]
            if version != FORMAT:
                raise DataError(
                    f"{path} has format {version}, of which only {FORMAT} is known; it was written "
                    "by another version of psdp"
                )
            shards, told, text_bytes = (account[k] for k in ("shards", "tokenizer", "text_bytes"))
            files = {str(shard["name"]): int(shard["tokens"]) for shard in shards}
            checks = tuple(str(shard["sha256"]) for shard in shards)
            sha256 = _sha256(told, shards)
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise DataError(
                f"{path} is no account of tokens ({error!r:.80}); make the folder again"
            ) from None
        plain = all(name == os.path.basename(name) for name in files)
        if account.get("sha256") != sha256 or not files or not plain:
            raise DataError(f"{path} was edited or damaged; make the folder again")
        tokenizer = tokenizer_of(
            told, lambda name: read_file(folder / name).decode("utf-8", "replace")
        )
        return cls(folder, tokenizer, sha256, files, checks, int(text_bytes))

    @property
    def sources(self) -> tuple[str, ...]:
        return tuple(printable(self.folder / name) for name in self.files)

    def map(self) -> tuple[Shard, ...]:
        """Return all shards, mapped.

        Raises:
            DataError: one is missing, or is not as long as the account says.
        """
        return tuple(self._mapped(name, tokens) for name, tokens in self.files.items())

    def _mapped(self, name: str, tokens: int) -> Shard:
        shard = map_npy(self.folder / name, None)
        if shard.tokens.size != tokens:
            raise DataError(
                f"{self.folder / name} holds {shard.tokens.size:,} tokens, {ACCOUNT} beside it "
                f"says {tokens:,}; make the folder again"
            )
        return shard


def write_tokens(
    folder: Path,
    tokenizer: Tokenizer,
    rows: Iterable[Array],
    *,
    text_bytes: Iterable[int],
    shard_tokens: int = SHARD_TOKENS,
) -> None:
    """Make a folder of the tokens in ``rows`` (n,), one after the other; the same rows make the
    same bytes. It appears when it is whole.

    Args:
        text_bytes: is asked when all rows have come.

    Raises:
        DataError: there is no token, or the folder is there and not empty, or cannot be written.
    """
    shards: list[dict[str, Any]] = []
    with appearing(folder, DataError) as beside:
        for tokens in _cut(rows, shard_tokens, smallest_dtype(tokenizer.vocab_size)):
            name = f"tokens-{len(shards):06d}.npy"
            np.save(beside / name, tokens)
            digest = hashlib.sha256(tokens.data).hexdigest()
            shards.append({"name": name, "tokens": tokens.size, "sha256": digest})
        if not shards:
            raise DataError("there is no text to make tokens of")
        told = tokenizer.to_json()
        account = {
            "format": FORMAT,
            "tokenizer": told,
            "tokens": sum(shard["tokens"] for shard in shards),
            "text_bytes": sum(text_bytes),
            "shards": shards,
            "sha256": _sha256(told, shards),
        }
        for name, content in tokenizer.files().items():
            (beside / name).write_text(content, encoding="utf-8")
        (beside / ACCOUNT).write_text(json.dumps(account, indent=1) + "\n", encoding="utf-8")


def _sha256(tokenizer: Any, shards: Any) -> str:
    told = json.dumps([tokenizer, shards], sort_keys=True)
    return hashlib.sha256(told.encode()).hexdigest()


def _cut(rows: Iterable[Array], size: int, dtype: npt.DTypeLike) -> Iterator[Array]:
    """Yield the tokens of ``rows`` in arrays of ``size``, the last one shorter; each is filled
    again for the next."""
    into, filled = np.empty(size, dtype), 0
    for row in rows:
        done = 0
        while done < row.size:
            piece = row[done : done + size - filled]
            into[filled : filled + piece.size] = piece
            done, filled = done + piece.size, filled + piece.size
            if filled == size:
                yield into
                filled = 0
    if filled:
        yield into[:filled]
