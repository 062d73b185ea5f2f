"""Texts in JSON lines: an object a line, a field or two of which are the text."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from psdp.data.formats.fields import Fields
from psdp.errors import DataError


def texts_in_lines(file: Path, utf8: bytes, fields: Fields) -> Iterator[bytes]:
    """Yield the text of each line; blank lines are none.

    Args:
        utf8: what the file holds.

    Raises:
        DataError: a line is no JSON object, or has no such fields, or no text in them.
    """
    for number, line in enumerate(io.BytesIO(utf8), start=1):  # which copies one line at a time
        if line.strip():
            where = f"{file}, line {number}"
            record = _record_in(line.removesuffix(b"\n"), fields, where)
            texts = [_text_in(record, *field, where) for field in fields.flags.items()]
            yield fields.document(texts, where)


def _record_in(line: bytes, fields: Fields, where: str) -> dict[str, Any]:
    try:
        record = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{where} is not JSON: {error}") from None
    if not isinstance(record, dict):
        raise DataError(f"{where}: expected an object with '{fields.text}', got {_kind(record)}")
    return record


def _text_in(record: dict[str, Any], field: str, flag: str, where: str) -> bytes:
    if field not in record:
        has = ", ".join(map(repr, record)) or "nothing"
        raise DataError(f"{where} has no '{field}', but {has:.80}; name it with {flag}")
    text = record[field]
    if not isinstance(text, str):
        raise DataError(f"{where}: expected text in '{field}', got {_kind(text)}")
    try:
        return text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise DataError(
            f"{where}: {text[error.start]!r} in '{field}' is half a character (a lone surrogate)"
        ) from None


def _kind(value: Any) -> str:
    names = {dict: "an object", list: "a list", str: "text", bool: "true or false"}
    return "null" if value is None else names.get(type(value), "a number")
