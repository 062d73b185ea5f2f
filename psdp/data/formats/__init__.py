"""What a file holds, by its format: one a file. A token format is a name's ending, and what maps
such a file."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType

from psdp.data.formats.bins import map_bin
from psdp.data.formats.npy import map_npy
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
