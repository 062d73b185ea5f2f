"""Headers: what is sent comes back, and nothing else ever gets through."""

from __future__ import annotations

from dataclasses import fields
from typing import Any, get_args

import msgpack
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from psdp.errors import ProtocolError
from psdp.transport.messages import (
    FOLLOWS,
    MAX_HEADER_BYTES,
    Message,
    PartialNorm,
    PullRequest,
    ShardSaved,
    decode,
    encode,
    pack_slots,
    unpack_slots,
)

KINDS: list[type[Any]] = list(get_args(Message))
VALUES = {
    "int": st.integers(-(1 << 63), (1 << 63) - 1),
    "float": st.floats(allow_nan=False),
    "bool": st.booleans(),
    "str": st.text(max_size=64),
    "bytes": st.binary(max_size=64),
}
FREE = settings(deadline=None, max_examples=300)
PEER = 5


def of_kind(kind: type[Any]) -> st.SearchStrategy[Message]:
    return st.builds(kind, **{f.name: VALUES[str(f.type)] for f in fields(kind)})


messages = st.sampled_from(KINDS).flatmap(of_kind)


@FREE
@given(messages, st.integers(0, 1 << 40), st.integers(FOLLOWS, 1 << 40))
def test_every_kind_comes_back_as_it_was_sent(
    message: Message, payload_bytes: int, offset: int
) -> None:
    header = encode(message, payload_bytes, offset)
    assert len(header) <= MAX_HEADER_BYTES
    assert decode(memoryview(header), PEER) == (message, payload_bytes, offset)


@given(st.sets(st.integers(0, 5000)))
def test_slots_come_back_in_rising_order(slots: set[int]) -> None:
    assert unpack_slots(pack_slots(slots)) == tuple(sorted(slots))


def test_nan_and_infinity_survive() -> None:
    message, _, _ = decode(encode(PartialNorm(3, float("nan")), 0), PEER)
    assert isinstance(message, PartialNorm)
    assert message.sum_of_squares != message.sum_of_squares
    assert decode(encode(PartialNorm(3, float("inf")), 0), PEER)[0] == PartialNorm(3, float("inf"))


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
    for f in fields(got):
        assert type(getattr(got, f.name)).__name__ == f.type


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


PULL = 1


@pytest.mark.parametrize(
    ("header", "why"),
    [
        (b"", "not msgpack"),
        (b"\xc1", "not msgpack"),
        (b"\x91" * MAX_HEADER_BYTES, "not msgpack"),
        (encode(PullRequest(1), 0) + b"\x00", "not msgpack"),
        (encode(PullRequest(1), 0)[:-1], "not msgpack"),
        (msgpack.packb({}), "expected \\[kind, payload bytes, offset, fields...\\]"),
        (msgpack.packb([PULL, 0]), "expected \\[kind, payload bytes, offset, fields...\\]"),
        (msgpack.packb([True, 0, 0, 1]), "expected \\[kind, payload bytes, offset, fields...\\]"),
        (msgpack.packb([PULL, 1.0, 0, 1]), "expected \\[kind, payload bytes, offset, fields...\\]"),
        (msgpack.packb([99, 0, 0]), "unknown kind 99"),
        (msgpack.packb([-1, 0, 0]), "unknown kind -1"),
        (msgpack.packb([PULL, -8, 0, 1]), "negative payload of -8 bytes"),
        (msgpack.packb([PULL, 0, -2, 1]), "a payload at offset -2"),
        (msgpack.packb([PULL, 0, -1]), "PullRequest has 1 fields, got 0"),
        (msgpack.packb([PULL, 0, -1, 1, 2]), "PullRequest has 1 fields, got 2"),
        (msgpack.packb([PULL, 0, -1, True]), "PullRequest.snapshot must be int, got True"),
        (msgpack.packb([PULL, 0, -1, "1"]), "PullRequest.snapshot must be int, got '1'"),
        (msgpack.packb([6, 0, -1, 1, 2]), "PartialNorm.sum_of_squares must be float, got 2"),
        (msgpack.packb([PULL, 0, -1, b"x"]), "PullRequest.snapshot must be int, got b.x"),
        (msgpack.packb([PULL, 0, {"a": 1}]), "not msgpack"),
        (msgpack.packb([PULL, 0, msgpack.ExtType(4, b"x")]), "not msgpack"),
        (msgpack.packb([PULL, 0, *range(20)]), "not msgpack"),
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
