"""Facts arrive as they were told, or are refused."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest

from psdp.errors import ProtocolError
from psdp.startup.facts import from_bytes, to_bytes


@dataclass(frozen=True)
class Inner:
    name: str


@dataclass(frozen=True)
class Outer:
    count: int
    share: float
    sure: bool
    inner: Inner | None
    many: tuple[Inner, ...]
    by_name: dict[str, int]
    rest: Any


FULL = Outer(3, 0.5, True, Inner("a"), (Inner("b"), Inner("c")), {"x": 1}, {"y": [1, "z", None]})


@pytest.mark.parametrize("facts", [FULL, Outer(0, 1, False, None, (), {}, None)])
def test_facts_arrive_as_they_were_told(facts: Outer) -> None:
    assert from_bytes(Outer, to_bytes(facts)) == facts


def test_names_of_files_arrive_whatever_bytes_they_have() -> None:
    name = b"caf\xe9".decode("utf-8", "surrogateescape")
    assert from_bytes(Inner, to_bytes(Inner(name))) == Inner(name)


@pytest.mark.parametrize(
    "raw",
    [
        b"", b"{", b"\xff", b"3", b"[]", b"{}",
        b'{"name": 3}', b'{"name": null}', b'{"name": "a", "more": 1}', b'{"other": "a"}',
    ],
)  # fmt: skip
def test_what_stands_for_no_facts_is_refused(raw: bytes) -> None:
    with pytest.raises(ProtocolError, match="does every rank run the same version of psdp"):
        from_bytes(Inner, raw)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("count", True), ("count", 1.5), ("share", "1"), ("sure", 1), ("inner", "a"),
        ("many", {}), ("many", [None]), ("by_name", []), ("by_name", {"x": "1"}),
    ],
)  # fmt: skip
def test_a_field_of_another_type_is_refused(field: str, value: Any) -> None:
    @dataclass(frozen=True)
    class Other:
        count: Any = 3
        share: Any = 0.5
        sure: Any = True
        inner: Any = None
        many: Any = ()
        by_name: Any = None
        rest: Any = None

    good = {"by_name": {}}
    assert from_bytes(Outer, to_bytes(Other(**good)))
    with pytest.raises(ProtocolError, match="of another rank, got"):
        from_bytes(Outer, to_bytes(Other(**(good | {field: value}))))
