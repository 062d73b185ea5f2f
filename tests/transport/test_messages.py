"""Headers: what is sent comes back, and nothing else ever gets through."""

from __future__ import annotations

from dataclasses import fields, is_dataclass
from types import UnionType
from typing import Any, get_args, get_origin, get_type_hints

import msgpack
import pytest
from any_message import messages_of
from hypothesis import given, settings
from hypothesis import strategies as st

from psdp.errors import ProtocolError
from psdp.modes import Pushed
from psdp.transport.headers import (
    FOLLOWS,
    MAX_HEADER_BYTES,
    MOST_INCLUDED,
    MOST_ORDERED,
    decode,
    encode,
)
from psdp.transport.messages import (
    Answer,
    AskSnapshot,
    AskWeights,
    Evaluate,
    Include,
    Message,
    PartialNorm,
    ShardSaved,
    Train,
)

KINDS: list[type[Any]] = list(get_args(Message))


def is_of(kind: Any, value: Any) -> bool:
    """Say whether a value is of the type of a field, through and through."""
    if get_origin(kind) is tuple:
        return type(value) is tuple and all(is_of(get_args(kind)[0], one) for one in value)
    if isinstance(kind, UnionType):
        return any(is_of(one, value) for one in get_args(kind))
    if type(value) is not kind:
        return False
    if not is_dataclass(kind):
        return True
    hints = get_type_hints(kind)
    return all(is_of(hints[f.name], getattr(value, f.name)) for f in fields(kind))


FREE = settings(deadline=None, max_examples=300)
PEER = 5


WHOLE = st.integers(0, (1 << 63) - 1)
messages = messages_of(WHOLE, st.floats(allow_nan=False))


def test_as_much_of_a_mean_as_is_told_at_once_fits_in_a_header() -> None:
    part = Include(tuple(range(1 << 20))[-MOST_INCLUDED:], (1 / 3,) * MOST_INCLUDED)
    assert decode(encode(part, 0), PEER).message == part


def test_as_many_orders_as_are_told_at_once_fit_in_a_header() -> None:
    order = Train(*[1 << 62] * 5, Pushed.GRADIENT)
    for orders in ((order,) * MOST_ORDERED, (Evaluate(*[1 << 62] * 4, True),) * MOST_ORDERED):
        answer = Answer(1 << 62, orders)
        assert decode(encode(answer, 1 << 62), PEER).message == answer
    asked = AskWeights(tuple(range(1 << 62, (1 << 62) + MOST_INCLUDED)))
    assert decode(encode(asked, 0), PEER).message == asked


@FREE
@given(messages, st.integers(0, 1 << 40), st.integers(FOLLOWS, 1 << 40))
def test_every_kind_comes_back_as_it_was_sent(
    message: Message, payload_bytes: int, offset: int
) -> None:
    header = encode(message, payload_bytes, offset)
    assert len(header) <= MAX_HEADER_BYTES
    assert decode(memoryview(header), PEER) == (message, payload_bytes, offset)


def test_nan_and_infinity_survive() -> None:
    message, _, _ = decode(encode(PartialNorm(3, (float("nan"), float("inf"))), 0), PEER)
    assert isinstance(message, PartialNorm)
    nan, infinity = message.squares
    assert nan != nan
    assert infinity == float("inf")


@FREE
@given(st.binary(max_size=MAX_HEADER_BYTES + 10))
def test_random_bytes_are_refused_or_a_message(header: bytes) -> None:
    try:
        message, payload_bytes, _ = decode(header, PEER)
    except ProtocolError:
        return
    assert type(message) in KINDS
    assert payload_bytes >= 0


@FREE
@given(
    messages,
    st.lists(st.tuples(st.integers(0, 2000), st.integers(0, 255)), min_size=1, max_size=4),
    st.integers(0, 2000),
)
def test_damaged_headers_are_refused_or_a_message_of_the_right_types(
    message: Message, changes: list[tuple[int, int]], keep: int
) -> None:
    header = bytearray(encode(message, 64))
    for offset, value in changes:
        header[offset % len(header)] = value
    try:
        got, payload_bytes, _ = decode(bytes(header[: max(1, keep)]), PEER)
    except ProtocolError:
        return
    assert payload_bytes >= 0
    assert is_of(type(got), got)


json_like = st.recursive(
    st.none() | st.booleans() | st.integers(-(1 << 63), (1 << 64) - 1) | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=2),
    max_leaves=12,
)


@FREE
@given(st.lists(json_like, max_size=12) | json_like)
def test_well_formed_msgpack_of_anything_is_refused_or_a_message(value: Any) -> None:
    try:
        message, payload_bytes, _ = decode(msgpack.packb(value), PEER)
    except ProtocolError:
        return
    assert type(message) in KINDS
    assert payload_bytes >= 0


PULL, ANSWER, NORM = (KINDS.index(kind) for kind in (AskSnapshot, Answer, PartialNorm))


@pytest.mark.parametrize(
    ("header", "why"),
    [
        (b"", "not msgpack"),
        (b"\xc1", "not msgpack"),
        (b"\x91" * MAX_HEADER_BYTES, "not msgpack"),
        (encode(AskSnapshot(1), 0) + b"\x00", "not msgpack"),
        (encode(AskSnapshot(1), 0)[:-1], "not msgpack"),
        (msgpack.packb({}), "expected \\[kind, payload bytes, offset, fields...\\]"),
        (msgpack.packb([PULL, 0]), "expected \\[kind, payload bytes, offset, fields...\\]"),
        (msgpack.packb([True, 0, 0, 1]), "expected \\[kind, payload bytes, offset, fields...\\]"),
        (msgpack.packb([PULL, 1.0, 0, 1]), "expected \\[kind, payload bytes, offset, fields...\\]"),
        (msgpack.packb([99, 0, 0]), "unknown kind 99"),
        (msgpack.packb([-1, 0, 0]), "unknown kind -1"),
        (msgpack.packb([PULL, -8, 0, 1]), "negative payload of -8 bytes"),
        (msgpack.packb([PULL, 0, -2, 1]), "a payload at offset -2"),
        (msgpack.packb([PULL, 0, -1]), "AskSnapshot has 1 fields, got 0"),
        (msgpack.packb([PULL, 0, -1, 1, 2]), "AskSnapshot has 1 fields, got 2"),
        (
            msgpack.packb([PULL, 0, -1, True]),
            "AskSnapshot.version must be a whole number, not negative, got True",
        ),
        (msgpack.packb([PULL, 0, -1, "1"]), "AskSnapshot.version must be a whole number, not"),
        (msgpack.packb([PULL, 0, -1, -2]), "AskSnapshot.version must be .*, got -2"),
        (msgpack.packb([NORM, 0, -1, 1, 2]), "PartialNorm.squares must be a list of float, got 2"),
        (
            msgpack.packb([NORM, 0, -1, 1, [2]]),
            "PartialNorm.squares must be a list of float",
        ),
        (
            msgpack.packb([ANSWER, 8, 0, 1, [[9]]]),
            "Answer.orders must be a list of Train or Evaluate or Stop",
        ),
        (msgpack.packb([ANSWER, 8, 0, 1, [0, 1]]), "Answer.orders must be"),
        (msgpack.packb([ANSWER, 8, 0, 1, [[0, 1, 2, 3, 4, 5]]]), "Answer.orders must be"),
        (msgpack.packb([ANSWER, 8, 0, 1, [[0, 1, 2, 3, 4, 5, "x"]]]), "Answer.orders must be"),
        (msgpack.packb([PULL, 0, -1, b"x"]), "not msgpack"),
        (msgpack.packb([PULL, 0, {"a": 1}]), "not msgpack"),
        (msgpack.packb([PULL, 0, msgpack.ExtType(4, b"x")]), "not msgpack"),
        (msgpack.packb([PULL, 0, *range(70)]), "not msgpack"),
        (b"\x93\x01\x00\xdb\xff\xff\xff\xff", "not msgpack"),
        (b"\xdd\xff\xff\xff\xff", "not msgpack"),
        (b"\x90" + b"\x00" * MAX_HEADER_BYTES, "at most 1024 are allowed"),
    ],
)
def test_a_bad_header_is_refused_with_the_rank_and_the_reason(header: bytes, why: str) -> None:
    with pytest.raises(ProtocolError, match=f"rank {PEER} sent a bad header of .*{why}"):
        decode(header, PEER)


def test_a_header_that_would_be_too_long_is_our_own_mistake() -> None:
    with pytest.raises(AssertionError, match="header of ShardSaved is too long"):
        encode(ShardSaved(1, "x" * MAX_HEADER_BYTES, 1, "", 0.5), 0)


def test_an_order_says_what_is_to_be_pushed() -> None:
    for push in Pushed:
        answer = Answer(7, (Train(5, 1, 2, 3, 4, push),))
        assert decode(encode(answer, 0), PEER).message == answer
