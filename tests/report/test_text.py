"""Tables on a terminal of 80 columns."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from psdp.report.tables import Table
from psdp.report.text import WIDTH, fitted

WORDS = st.text("ab ", min_size=1, max_size=30).map(str.strip).filter(bool)


def test_a_table_that_fits_is_one() -> None:
    table = Table("", ("mode", "loss"), (("sync", "2.0"), ("async", "12.0")))
    assert fitted(table) == ["mode   loss", "sync    2.0", "async  12.0"]


def test_columns_that_do_not_fit_follow_below() -> None:
    table = Table("", ("mode", "loss", "bytes"), (("sync", "2.0", "1 kB"), ("ssp", "3.0", "2 kB")))
    assert fitted(table, 15) == [
        "mode  loss",
        "sync   2.0",
        "ssp    3.0",
        "",
        "mode  bytes",
        "sync   1 kB",
        "ssp    2 kB",
    ]


def test_a_long_name_goes_over_several_lines() -> None:
    table = Table("", ("mode", "loss"), (("local H=8, lr 0.1", "2.0"),))
    assert fitted(table, 30) == ["mode        loss", "local H=8,   2.0", "  lr 0.1"]


def test_a_long_cell_goes_over_several_lines_too() -> None:
    table = Table("", ("mode", "against"), (("ssp", "sync, lr 0.001, warmup-steps 20"),))
    assert fitted(table, 24) == [
        "mode            against",
        "ssp     sync, lr 0.001,",
        "        warmup-steps 20",
    ]


@given(st.lists(WORDS, min_size=2, max_size=12), st.integers(1, 4))
def test_no_line_is_longer_than_the_terminal_and_no_cell_is_lost(
    columns: list[str], rows: int
) -> None:
    cells = tuple(tuple(f"{row}{index}" for index in range(len(columns))) for row in range(rows))
    lines = fitted(Table("", tuple(columns), cells))
    assert max(map(len, lines)) <= WIDTH
    text = "\n".join(lines)
    assert all(cell in text for line in cells for cell in line)
