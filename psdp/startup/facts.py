"""Facts that ranks tell one another: dataclasses, as JSON on their way, checked when they are read.

A field is a str, int, float, bool or None, a tuple or a dict of such, another dataclass, a union of
these, or Any: what else is plain JSON.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from functools import cache
from types import NoneType, UnionType
from typing import Any, TypeVar, get_args, get_origin, get_type_hints

from psdp.errors import ProtocolError

Facts = TypeVar("Facts")

_PLAIN: Mapping[Any, tuple[type, ...]] = {
    str: (str,),
    bool: (bool,),
    int: (int,),
    float: (float, int),
    NoneType: (NoneType,),
}


def to_bytes(facts: Any) -> bytes:
    """Return a dataclass as it travels."""
    return json.dumps(facts, default=_fields_of).encode()


def from_bytes(kind: type[Facts], raw: bytes) -> Facts:
    """Return the ``kind`` that travelled as these bytes.

    Raises:
        ProtocolError: they stand for none.
    """
    try:
        value = json.loads(raw)
    except ValueError as error:
        raise _unreadable(raw, "JSON") from error
    return read(kind, value)


def read(kind: type[Facts], value: Any) -> Facts:
    """Return the ``kind`` that a value of plain JSON types stands for.

    Raises:
        ProtocolError: it stands for none.
    """
    facts: Facts = _read(kind, value)
    return facts


def _read(kind: Any, value: Any) -> Any:
    if kind is Any:
        return value
    if kind in _PLAIN:
        if isinstance(value, _PLAIN[kind]) and (kind is bool or not isinstance(value, bool)):
            return value
        raise _unreadable(value, kind.__name__)
    if is_dataclass(kind):
        return _read_dataclass(kind, value)
    origin, arguments = get_origin(kind), get_args(kind)
    if origin is tuple and isinstance(value, list):
        return tuple(_read(arguments[0], item) for item in value)
    if origin is dict and isinstance(value, dict):
        return {name: _read(arguments[1], item) for name, item in value.items()}
    if origin is UnionType:
        return _read_one_of(arguments, value)
    raise _unreadable(value, str(kind))


def _read_dataclass(kind: Any, value: Any) -> Any:
    types = _types(kind)
    if not isinstance(value, dict) or value.keys() != types.keys():
        raise _unreadable(value, f"the fields {', '.join(sorted(types))}")
    return kind(**{name: _read(types[name], value[name]) for name in value})


def _fields_of(value: Any) -> dict[str, Any]:
    kind: Any = type(value)
    return {name: getattr(value, name) for name in _types(kind)}


@cache
def _types(kind: Any) -> Mapping[str, Any]:
    """Return the types of a dataclass's fields."""
    hints = get_type_hints(kind)
    return {field.name: hints[field.name] for field in fields(kind)}


def _read_one_of(kinds: tuple[Any, ...], value: Any) -> Any:
    for kind in kinds:
        try:
            return _read(kind, value)
        except ProtocolError:
            pass
    raise _unreadable(value, " or ".join(map(str, kinds)))


def _unreadable(value: Any, expected: str) -> ProtocolError:
    return ProtocolError(
        f"expected {expected} of another rank, got {value!r:.80}; does every rank run the same "
        "version of psdp?"
    )
