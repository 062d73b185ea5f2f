"""What a file holds, by its format: one a file. Files of tokens are told by the ending of their
names; others by how they begin, and JSON lines by their names."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import MappingProxyType

from psdp.data.files import head_of
from psdp.data.formats import parquet
from psdp.data.formats.bins import map_bin
from psdp.data.formats.fields import Fields
from psdp.data.formats.jsonl import texts_in_lines
from psdp.data.formats.npy import map_npy
from psdp.data.formats.packed import read_unpacked
from psdp.data.formats.text import NotText, text_of
from psdp.data.tokens import Shard

TOKENS: Mapping[str, Callable[[Path, str | None], Shard]] = MappingProxyType(
    {".npy": map_npy, ".bin": map_bin}
)
"""By the ending of a name, what maps such a file; it is handed the type that a person says."""


def holds_tokens(file: Path) -> bool:
    """Say whether a file is one of tokens, by its name."""
    return file.suffix.lower() in TOKENS


def map_tokens(file: Path, dtype: str | None) -> Shard:
    """Return the tokens of a file, mapped.

    Args:
        dtype: of ``--token-dtype``, for formats that do not say theirs.

    Raises:
        ConfigError: the file has another type than the one that is said.
        DataError: it cannot be read, is damaged, or holds no row of tokens.
    """
    return TOKENS[file.suffix.lower()](file, dtype)


def read_documents(file: Path, fields: Fields) -> Iterator[bytes]:
    """Yield the texts in a file, in UTF-8: one, or as many as it has records.

    Args:
        fields: of a record, that are its text.

    Raises:
        ConfigError: a library that this needs is not installed.
        NotText: the file holds no text.
        DataError: it cannot be read, is damaged, or a record has no such fields.
    """
    if head_of(file, 4) == parquet.MAGIC or file.suffix.lower() == ".parquet":
        yield from parquet.texts_in_columns(file, fields)
        return
    raw, ending = read_unpacked(file)
    if ending in TOKENS:
        raise NotText(file, "tokens, and compressed", "unpack it: tokens are mapped")
    text = text_of(file, raw)
    if ending in (".jsonl", ".ndjson"):
        yield from texts_in_lines(file, text, fields)
    else:
        yield text
