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
    except (arrow.ArrowException, UnicodeError) as error:
        raise DataError(f"{file} is damaged: {str(error).splitlines()[0]}") from None
    except OSError as error:
        raise unreadable(file, error) from None


def _check_column(file: Path, schema: Any, column: str, flag: str, types: Any) -> None:
    if column not in schema.names:
        has = ", ".join(map(repr, schema.names)) or "none"
        raise DataError(f"{file} has no column '{column}', but {has:.80}; name it with {flag}")
    kind = schema.field(column).type
    plain = kind.value_type if types.is_dictionary(kind) else kind
    if not (types.is_string(plain) or types.is_large_string(plain)):
        raise DataError(f"{file}: expected text in the column '{column}', got {kind}")
