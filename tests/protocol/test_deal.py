"""The deck of batches, against plain sets."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from psdp.protocol import Deck, Ranges

numbers = st.lists(st.integers(0, 40), unique=True)


def as_set(pairs: list[tuple[int, int]]) -> set[int]:
    return {number for start, stop in pairs for number in range(start, stop)}


@given(numbers)
def test_ranges_hold_what_was_added_as_few_ranges(added: list[int]) -> None:
    ranges = Ranges()
    for number in added:
        ranges.add(range(number, number + 1))
    pairs = ranges.pairs()
    assert as_set(pairs) == set(added)
    assert pairs == sorted(pairs)
    assert all(a[1] < b[0] for a, b in pairwise(pairs)), "two that touch"
    assert Ranges(pairs).pairs() == pairs


@given(numbers, st.lists(st.tuples(st.integers(1, 5), st.booleans()), max_size=30))
def test_the_lowest_batch_that_nobody_has_is_dealt_first(
    done: list[int], takes: list[tuple[int, bool]]
) -> None:
    deck = Deck(Ranges((number, number + 1) for number in done).pairs())
    taken = set(done)
    for count, comes_back in takes:
        batches = deck.take(count)
        assert 1 <= len(batches) <= count
        assert batches.start == min(set(range(200)) - taken)
        assert not taken & set(batches)
        if comes_back:
            deck.give_back(batches)
        else:
            taken |= set(batches)


def test_batches_are_dealt_together_where_none_is_missing_between() -> None:
    deck = Deck([(0, 3), (5, 6)])
    assert [deck.take(4) for _ in range(3)] == [range(3, 5), range(6, 10), range(10, 14)]
