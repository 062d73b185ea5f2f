"""What a server tells waits for who stands by for it, and leaves in order."""

from __future__ import annotations

from collections.abc import Callable

from psdp.servers.gate import Gate


def gate(*, closed: bool) -> tuple[Gate, list[str], Callable[[str], Callable[[], None]]]:
    told: list[str] = []
    return Gate(closed=closed), told, lambda what: lambda: told.append(what)


def test_without_a_standby_nothing_waits() -> None:
    own, told, tell = gate(closed=False)
    own.hold(tell("update 1"))
    own.answer(tell("answer 1"))
    assert told == ["update 1", "answer 1"]


def test_answers_leave_in_order_when_the_standby_has_come_as_far() -> None:
    own, told, tell = gate(closed=True)
    own.hold(tell("update 1"))
    own.answer(tell("answer 1"))
    own.answer(tell("answer 2"))
    own.hold(tell("update 2"))
    assert told == []
    own.followed(1)
    assert told == ["update 1", "answer 1"]
    own.followed(3)
    assert told == ["update 1", "answer 1", "answer 2", "update 2"]
    own.answer(tell("answer 3"))
    assert told[-1] == "answer 3", "the standby was there first"


def test_what_would_be_told_again_waits_for_nobody() -> None:
    own, told, tell = gate(closed=True)
    own.answer(tell("answer 1"), at_once=True)
    own.hold(tell("update 1"))
    own.answer(tell("the end"))
    assert told == ["answer 1"]
    own.followed(1)
    assert told == ["answer 1"], "what is held waits for the next answer"
    own.followed(2)
    assert told == ["answer 1", "update 1", "the end"]


def test_when_a_run_ends_early_all_leaves() -> None:
    own, told, tell = gate(closed=True)
    own.answer(tell("answer 1"))
    own.open()
    own.hold(tell("update 1"))
    assert told == ["answer 1", "update 1"]


def test_when_a_term_ends_answers_are_void() -> None:
    own, told, tell = gate(closed=True)
    own.hold(tell("update 1"))
    own.answer(tell("answer 1"))
    own.hold(tell("update 2"))
    own.settle()
    assert told == ["update 1", "update 2"]
