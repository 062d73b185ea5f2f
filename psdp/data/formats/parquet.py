"""Texts in Parquet: a column of strings."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import count
from pathlib import Path
from typing import Any

from psdp.data.extra import needed
from psdp.data.files import unreadable
from psdp.data.formats.prompt import Prompt
from psdp.errors import DataError

MAGIC = b"PAR1"


def texts_in_column(file: Path, column: str, prompt: Prompt | None = None) -> Iterator[bytes]:
    """Yield the text of each row, after its prompt if it has one; a row without is left out.

    Raises:
        ConfigError: what reads Parquet is not installed.
        DataError: the file is damaged, or has no such column, or no text in it.
    """
    arrow = needed("pyarrow", f"{file} is Parquet")
    parquet = needed("pyarrow.parquet", f"{file} is Parquet")
    try:
        with parquet.ParquetFile(file) as opened:
            columns = {column: "--text-field"}
            if prompt is not None:
                columns[prompt.field] = "--prompt-field"
            for name, flag in columns.items():
                _check_column(file, opened.schema_arrow, name, flag, arrow.types)
            numbers = count(1)
            for batch in opened.iter_batches(columns=[*columns]):
                for row in zip(*(batch[name] for name in columns), strict=True):
                    number = next(numbers)
                    if all(value.is_valid for value in row):
                        values = [value.as_py().encode("utf-8") for value in row]
                        if prompt is None:
                            yield values[0]
                        else:
                            yield prompt.joined(values[1], values[0], f"{file}, row {number}")
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
