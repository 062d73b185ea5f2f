"""What is told of a corpus that is another one than it was."""

from psdp.data.changes import changes


def test_each_file_that_differs_is_named() -> None:
    before = {"a": "1", "b": "2", "c": "3"}
    assert changes(before, {"a": "1", "b": "9", "d": "4"}) == " (changed: b; gone: c; new: d)"


def test_files_that_lie_elsewhere_are_compared_by_their_names() -> None:
    assert changes({"x/a": "1", "x/b": "2"}, {"/y/a": "1", "/y/b": "3"}) == " (changed: b)"


def test_of_many_some_are_named() -> None:
    before = {f"{n}": "1" for n in range(9)}
    assert changes(before, dict.fromkeys(before, "2")) == " (changed: 0, 1, 2, 3, 4 and 4 more)"


def test_where_nothing_is_known_nothing_is_said() -> None:
    assert changes({}, {"a": "1"}) == ""
    assert changes({"a": "1"}, {"a": "1"}) == ""
