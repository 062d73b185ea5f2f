"""The record of events at ranks that may have to go on with it: what is missing in the file is
added, what is void is said, and the chain of hashes holds."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from psdp.cast import Term
from psdp.errors import CheckpointError
from psdp.protocol import Move, Pull, Push, Work
from psdp.records.events import Happened, NewTerm, events_file, read_lines, read_record, void_lines
from psdp.records.record import MOST_TOLD, Record


def nobody_else() -> None:
    pass


def push(worker: int, version: int) -> Push:
    return Push(worker, 0, Work(clock=version, version=version, units=0, loss=1.0))


class Two:
    """A record at who writes it, and at a rank that is told of each line."""

    def __init__(self, folder: Path) -> None:
        self.path = events_file(folder, 0)
        self.writer = Record(self.path, 0, nobody_else, now=lambda: 100.0)
        self.other = Record(self.path, 0, nobody_else, now=lambda: 7.0)
        self.writer.begin({"version": 0})
        self.writer.tell = self.other.hear

    def write(self, versions: int) -> None:
        """Write a pull and a push of each version, which makes the next one."""
        for version in range(versions):
            self.writer.note(Happened(Pull(1)), version)
            self.writer.note(Happened(push(1, version)), version + 1)

    def whole(self) -> list[object]:
        """Return the events that count; see that the chain holds."""
        assert all(line.follows and line.whole for line in read_lines(self.path))
        return [happened.event for happened in read_record(self.path).happened]


@pytest.fixture
def two(tmp_path: Path) -> Two:
    return Two(tmp_path)


def test_who_takes_over_goes_on_with_the_chain(two: Two) -> None:
    two.write(2)
    before = two.whole()
    assert two.other.lines == two.writer.lines == 5
    two.other.take_over()
    assert two.other.seal == two.writer.seal
    assert two.other.seal_of(1) == two.writer.seal_of(1)
    two.other.begin_term(Term(1, frozenset({0})), 2)
    two.other.note(Happened(Pull(1)), 2)
    assert two.whole() == [*before, NewTerm(1, 2, 0, (0,)), Pull(1)]


def test_lines_that_the_file_lacks_are_added_and_one_that_is_cut_off_is_dropped(two: Two) -> None:
    two.write(3)
    before, text = two.whole(), two.path.read_text()
    for cut in 1, 30, len("".join(text.splitlines(keepends=True)[3:])) + 5:
        two.path.write_text(text[:-cut])
        two.other.take_over()
        assert two.path.read_text() == text
        assert two.whole() == before


def test_what_its_writer_told_nobody_is_void_but_for_pulls(two: Two) -> None:
    two.write(1)
    two.writer.tell = None
    two.writer.note(Happened(Pull(2)), 1)
    two.writer.note(Happened(push(2, 1)), 2)
    two.writer.note(Happened(Pull(2)), 2)
    two.other.take_over()
    two.other.begin_term(Term(1, frozenset({0})), 1)
    assert two.whole()[-3:] == [push(1, 0), Pull(2), NewTerm(1, 1, 2, (0,))]
    assert void_lines(two.path) == [range(5, 7)]


def test_what_decided_later_versions_is_void_but_moves_are_told(two: Two) -> None:
    two.write(2)
    two.other.moved(3, 1)  # who wrote told of it, but died before the line
    two.other.take_over()
    two.other.begin_term(Term(1, frozenset({0})), 1, ["ssp"], [0])
    term = NewTerm(1, 1, 1, (0,), (), ((3, 1),), ("ssp",), (0,))
    before = [Pull(1), push(1, 0), Pull(1), term]
    assert two.whole() == before
    two.other.moved(2, 1)
    two.other.note(Happened(Move(2, 1)), 1)
    two.other.begin_term(Term(3, frozenset({0, 2})), 1, ["ssp"])
    later = NewTerm(3, 1, 0, (2,), (), (), ("ssp",))
    assert two.whole() == [*before, Move(2, 1), later]


def test_who_joins_goes_on_with_it_as_well(two: Two) -> None:
    two.write(2)
    two.writer.begin_term(Term(1, frozenset({5})), 2)
    third = Record(two.path, 0, nobody_else, now=lambda: 7.0)
    third.go_on(json.loads(json.dumps(two.writer.account(2))))
    two.writer.tell = third.hear
    two.writer.begin_term(Term(2, frozenset({5}), ((0, 3),)), 2)
    two.writer.note(Happened(Pull(1)), 2)
    two.writer.tell = None
    two.writer.note(Happened(push(1, 2)), 3)
    third.take_over()
    third.begin_term(Term(3, frozenset({0, 5}), ((0, 3), (0, 4))), 2)
    begun = [NewTerm(1, 2, 0, (5,)), NewTerm(2, 2, 0, (), ((0, 3),))]
    assert two.whole()[4:] == [*begun, Pull(1), NewTerm(3, 2, 1, (0,), ((0, 4),))]


def test_who_joins_may_be_lost_at_once(two: Two) -> None:
    two.writer.begin_term(Term(1, frozenset({0, 3}), ((0, 3), (1, 4))), 0)
    two.writer.begin_term(Term(2, frozenset({0, 3, 4}), ((0, 3), (1, 4))), 0)
    begun = [NewTerm(1, 0, 0, (0, 3), ((0, 3), (1, 4))), NewTerm(2, 0, 0, (4,))]
    assert two.whole() == begun


def test_a_line_that_nobody_knows_is_an_error(tmp_path: Path) -> None:
    two = Two(tmp_path)
    two.writer.tell = None
    two.write(1)
    two.writer.tell = two.other.hear
    two.write(1)
    two.path.write_text("".join(two.path.read_text().splitlines(keepends=True)[:2]))
    with pytest.raises(CheckpointError, match="lacks line 3, which no rank that is left knows"):
        two.other.take_over()


def test_the_clock_of_pushes_goes_on(two: Two) -> None:
    two.write(1)
    two.other.take_over()
    two.other.note(Happened(push(1, 1)), 2)
    times = [it.time_s for it in read_record(two.path).happened if isinstance(it.event, Push)]
    assert times == [100.0, 100.0]


def test_what_does_not_fit_a_message_is_in_the_file_only(two: Two) -> None:
    for worker in range(MOST_TOLD // 4):
        two.writer.moved(worker, 3)
    two.writer.begin_term(Term(1), 0)
    two.writer.note(Happened(Pull(1)), 0)
    assert [line.number for line in two.other.since(0)] == [3]
    before = two.whole()
    two.other.take_over()
    assert two.whole() == before
