"""Texts in Parquet: columns of strings."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from typing import Any

from psdp.data.extra import needed
from psdp.data.files import unreadable
from psdp.data.formats.fields import Fields
from psdp.errors import DataError

MAGIC = b"PAR1"


def texts_in_columns(file: Path, fields: Fields) -> Iterator[bytes]:
    """Yield the text of each row; one of which a part is missing is left out.

    Raises:
        ConfigError: what reads Parquet is not installed.
        DataError: the file is damaged, or has no such columns, or no text in them.
    """
    arrow = needed("pyarrow", f"{file} is Parquet")
    parquet = needed("pyarrow.parquet", f"{file} is Parquet")
    try:
        with parquet.ParquetFile(file) as opened:
            for column, flag in fields.flags.items():
                _check_column(file, opened.schema_arrow, column, flag, arrow.types)
            batches = opened.iter_batches(columns=[*fields.flags])
            rows = (zip(*map(batch.column, fields.flags), strict=True) for batch in batches)
            for number, row in enumerate(chain.from_iterable(rows), start=1):
                if all(value.is_valid for value in row):
                    texts = [value.as_py().encode("utf-8") for value in row]
                    yield fields.document(texts, f"{file}, row {number}")
    except (arrow.ArrowException, OSError, UnicodeError) as error:
        # Some of what it finds damaged are errors of the system to it, without a number.
        if isinstance(error, OSError) and error.errno is not None:
            raise unreadable(file, error) from None
        what = str(error).splitlines()[0].rstrip(".")
        raise DataError(f"{file} is damaged: {what}; copy or write it again") from None


def _check_column(file: Path, schema: Any, column: str, flag: str, types: Any) -> None:
    if schema.names.count(column) > 1:
        raise DataError(f"{file} has several columns '{column}'; write it with one")
    if column not in schema.names:
        has = ", ".join(map(repr, schema.names)) or "none"
        raise DataError(f"{file} has no column '{column}', but {has:.80}; name it with {flag}")
    kind = schema.field(column).type
    plain = kind.value_type if types.is_dictionary(kind) else kind
    if not any(is_text(plain) for is_text in _texts(types)):
        raise DataError(f"{file}: expected text in the column '{column}', got {kind}")


def _texts(types: Any) -> Iterator[Any]:
    """Yield what says whether a type is one of text: older versions do not know all."""
    for name in ("is_string", "is_large_string", "is_string_view"):
        if hasattr(types, name):
            yield getattr(types, name)
