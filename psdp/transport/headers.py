"""The bytes of a message: one msgpack array, checked field by field.

``[kind, payload_bytes, offset, field, field, ...]``, at most ``MAX_HEADER_BYTES``. A payload, where
there is one, is the raw memory of a flat vector. It follows on its own, or lies at ``offset`` in
the memory that its sender shares with the receiver.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields, is_dataclass
from enum import StrEnum
from types import NoneType, UnionType
from typing import Any, NamedTuple, get_args, get_origin, get_type_hints

import msgpack

from psdp.errors import ProtocolError
from psdp.transport.messages import WITH_PAYLOAD, Message

MAX_HEADER_BYTES = 1024
FOLLOWS = -1
"""As the offset of a payload: in no shared memory, it follows its header."""
MOST_INCLUDED = 64
"""How many numbers a tuple of a message may have."""
MOST_ORDERED = 14
"""How many orders fit into an answer."""


class Header(NamedTuple):
    """What a header says: the message, and how large its payload is and where."""

    message: Message
    payload_bytes: int
    offset: int


class _Mismatch(Exception):
    """A value is not of the type of its field."""


class _Form(NamedTuple):
    """How values of a type are packed, and made again of what was unpacked."""

    name: str
    pack: Callable[[Any], Any]
    unpack: Callable[[Any], Any]


def _form_of(kind: Any) -> _Form:
    if kind is int:
        return _Form("a whole number, not negative", _as_it_is, _whole)
    if kind in (float, str, bool):
        return _Form(kind.__name__, _as_it_is, lambda value: _exactly(kind, value))
    if get_origin(kind) is tuple:
        return _tuple_of(_form_of(get_args(kind)[0]))
    if isinstance(kind, UnionType):
        return _one_of(get_args(kind))
    if issubclass(kind, StrEnum):
        return _Form(kind.__name__, str, lambda value: _member(kind, value))
    assert is_dataclass(kind), kind
    return _dataclass(kind)  # type: ignore[arg-type]


def _as_it_is(value: Any) -> Any:
    return value


def _exactly(kind: type, value: Any) -> Any:
    if type(value) is not kind:
        raise _Mismatch
    return value


def _whole(value: Any) -> int:
    number: int = _exactly(int, value)
    if number < 0:
        raise _Mismatch
    return number


def _member(kind: type[StrEnum], value: Any) -> StrEnum:
    try:
        return kind(_exactly(str, value))
    except ValueError:
        raise _Mismatch from None


def _tuple_of(item: _Form) -> _Form:
    def unpack(value: Any) -> tuple[Any, ...]:
        return tuple(item.unpack(entry) for entry in _exactly(list, value))

    return _Form(f"a list of {item.name}", lambda values: [item.pack(v) for v in values], unpack)


def _one_of(kinds: tuple[Any, ...]) -> _Form:
    """Return the form of a union: None, or its number among the others and then its fields."""
    known = [kind for kind in kinds if kind is not NoneType]
    forms = [_form_of(kind) for kind in known]

    def pack(value: Any) -> Any:
        if value is None:
            return None
        number = known.index(type(value))
        return [number, *forms[number].pack(value)]

    def unpack(value: Any) -> Any:
        if value is None and NoneType in kinds:
            return None
        number, *values = _exactly(list, value) or [None]
        if type(number) is not int or not 0 <= number < len(known):
            raise _Mismatch
        return forms[number].unpack(values)

    return _Form(" or ".join(form.name for form in forms), pack, unpack)


def _dataclass(kind: type[Any]) -> _Form:
    hints = get_type_hints(kind)
    inner = [(field.name, _form_of(hints[field.name])) for field in fields(kind)]

    def pack(value: Any) -> list[Any]:
        return [form.pack(getattr(value, name)) for name, form in inner]

    def unpack(value: Any) -> Any:
        values = _exactly(list, value)
        if len(values) != len(inner):
            raise _Mismatch
        return kind(*(form.unpack(v) for (_, form), v in zip(inner, values, strict=True)))

    return _Form(kind.__name__, pack, unpack)


class _Kind(NamedTuple):
    """A kind of message, and the forms of its fields by name."""

    type_: type[Any]
    fields: tuple[tuple[str, _Form], ...]


def _kind(type_: type[Any]) -> _Kind:
    hints = get_type_hints(type_)
    return _Kind(type_, tuple((f.name, _form_of(hints[f.name])) for f in fields(type_)))


_KINDS = tuple(_kind(type_) for type_ in get_args(Message))
_NUMBER = {kind.type_: number for number, kind in enumerate(_KINDS)}


def encode(message: Message, payload_bytes: int, offset: int = FOLLOWS) -> bytes:
    """Return the header of a message whose payload has this many bytes (0: none)."""
    number = _NUMBER[type(message)]
    values = [form.pack(getattr(message, name)) for name, form in _KINDS[number].fields]
    header: bytes = msgpack.packb([number, payload_bytes, offset, *values])
    assert len(header) <= MAX_HEADER_BYTES, f"header of {type(message).__name__} is too long"
    return header


def decode(header: bytes | memoryview, peer: int) -> Header:
    """Return what a header from rank ``peer`` says.

    Raises:
        ProtocolError: not a header of this protocol; nothing was allocated for it.
    """

    def wrong(why: str) -> ProtocolError:
        return ProtocolError(f"rank {peer} sent a bad header of {len(header)} bytes: {why}")

    if len(header) > MAX_HEADER_BYTES:
        raise wrong(f"at most {MAX_HEADER_BYTES} are allowed")
    try:
        parts = msgpack.unpackb(
            header,
            max_str_len=MAX_HEADER_BYTES,
            max_array_len=MOST_INCLUDED,
            max_bin_len=0,
            max_map_len=0,
            max_ext_len=0,
        )
    except (ValueError, msgpack.UnpackException) as error:
        raise wrong(f"not msgpack ({error})") from error
    if not isinstance(parts, list) or len(parts) < 3 or not all(type(x) is int for x in parts[:3]):
        raise wrong("expected [kind, payload bytes, offset, fields...]")
    number, payload_bytes, offset, *values = parts
    if not 0 <= number < len(_KINDS) or payload_bytes < 0:
        raise wrong(f"unknown kind {number} or negative payload of {payload_bytes} bytes")
    if offset < FOLLOWS:
        raise wrong(f"a payload at offset {offset}")
    kind, expected = _KINDS[number]
    if len(values) != len(expected):
        raise wrong(f"{kind.__name__} has {len(expected)} fields, got {len(values)}")
    read = []
    for (name, form), value in zip(expected, values, strict=True):
        try:
            read.append(form.unpack(value))
        except _Mismatch:
            text = f"{kind.__name__}.{name} must be {form.name}, got {value!r:.40}"
            raise wrong(text) from None
    return Header(kind(*read), payload_bytes, offset)


def has_payload(header: Header) -> bool:
    """Say whether a vector follows a header as a message, which an empty vector does too."""
    return header.offset == FOLLOWS and (
        header.payload_bytes > 0 or isinstance(header.message, WITH_PAYLOAD)
    )
