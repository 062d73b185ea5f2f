"""Windows that respect documents: every target of every document once, and none across two."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from psdp.data.batches import Batches, Validation
from psdp.data.documents import Documents, Marks
from psdp.data.tokens import CHUNK, Tokens
from psdp.errors import DataError

documents = st.lists(st.lists(st.integers(2, 9), max_size=12), min_size=1, max_size=12)


def joined(texts: list[list[int]], separator: list[int]) -> list[int]:
    """Return the documents one after the other, each but the last with its end."""
    return [t for text in texts[:-1] for t in (*text, *separator)] + texts[-1]


def pairs_of(texts: list[list[int]], separator: list[int]) -> list[tuple[int, int]]:
    """Return every token of a document with the one that follows it there, sorted."""
    whole = [[*text, *separator] for text in texts[:-1] if text] + [texts[-1]]
    return sorted(pair for text in whole for pair in pairwise(text))


def counted(batches: Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]) -> list[tuple[int, int]]:
    """Return all tokens whose target counts, with that, sorted."""
    return sorted(
        pair
        for x, y, mask in batches
        for pair in zip(x[mask].tolist(), y[mask].tolist(), strict=True)
    )


@given(documents, st.sampled_from([[0], [0, 1], [0, 0]]), st.integers(1, 5), st.integers(1, 4))
def test_every_target_of_a_document_counts_once_and_none_of_another(
    texts: list[list[int]], separator: list[int], block: int, size: int
) -> None:
    expected = pairs_of(texts, separator)
    tokens = Tokens.of(np.array([0, *joined(texts, separator)], np.uint8)).part(1, 1 << 40)
    if not expected:
        with pytest.raises(DataError, match="has no document of two tokens or more"):
            Documents(tokens, Marks(np.array(separator)), block, "training")
        return
    windows = Documents(tokens, Marks(np.array(separator)), block, "training")
    assert windows.units == len(expected)
    validation = Validation(tokens, windows, size)
    assert validation.units == validation.split_units == len(expected)
    assert counted(validation.batches(validation.part(0, 1))) == expected
    how = {"worker": 0, "workers": 1, "partition": "random", "seed": 1}
    batches = Batches(tokens, windows, batch_size=1, **how)
    seen: list[tuple[int, int]] = []
    for number in range(windows.count):
        seen += counted(iter([batches.batch(number)]))
        assert batches.counted(number) == batches.batch(number).counted.sum() > 0
    assert sorted(seen) == expected


@given(
    st.lists(st.tuples(st.lists(st.integers(3, 9), max_size=9), st.booleans()), min_size=1),
    st.sampled_from([[1], [1, 2], [1, 1]]),
    st.integers(1, 5),
)
def test_of_a_document_with_a_prompt_what_follows_it_counts(
    parts: list[tuple[list[int], bool]], mark: list[int], block: int
) -> None:
    """Documents are of parts, of which the first may be a prompt."""
    row: list[int] = []
    expected: list[tuple[int, int]] = []
    asked = False
    for text, prompts in parts:
        begin = len(row)
        row += [*text, *mark, *text, 0] if prompts else [*text, 0]
        asked |= prompts
        targets = range(begin + (len(text) + len(mark) if prompts else 1), len(row))
        expected += [(row[at - 1], row[at]) for at in targets]
    tokens, marks = Tokens.of(np.array(row, np.uint8)), Marks(np.array([0]), np.array(mark))
    if not asked:
        with pytest.raises(DataError, match="no document of the training split has a prompt"):
            Documents(tokens, marks, block, "training")
        return
    windows = Documents(tokens, marks, block, "training")
    validation = Validation(tokens, windows, 2)
    batches = validation.batches(validation.part(0, 1))
    assert counted(batches) == sorted(expected)
    first, end = windows.counted(windows.starts(0, np.arange(windows.count)))
    assert (first < end).all(), "no window is without a target"
    assert windows.units == len(expected)


def test_a_window_begins_with_its_document_or_goes_on_with_a_long_one() -> None:
    tokens = Tokens.of(np.array([5, 6, 0, 1, 2, 3, 4, 5, 6, 0, 0, 7, 8], np.uint8))
    windows = Documents(tokens, Marks(np.array([0])), 4, "training")
    starts = windows.starts(0, np.arange(windows.count))
    assert starts.tolist() == [0, 3, 7, 11]
    assert windows.counted(starts)[1].tolist() == [2, 4, 2, 1]


def test_a_separator_is_found_where_two_reads_meet() -> None:
    row = np.ones(2 * CHUNK + 10, np.uint8)
    row[CHUNK - 1 : CHUNK + 1] = 7, 8
    windows = Documents(Tokens.of(row), Marks(np.array([7, 8])), CHUNK, "training")
    assert windows.starts(0, np.arange(2)).tolist() == [0, CHUNK + 1]
    assert windows.units == 2 * CHUNK + 10 - 2
