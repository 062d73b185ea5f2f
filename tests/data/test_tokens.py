"""Rows of tokens: shards are read as if they were one array."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from psdp.data.tokens import Tokens

SIZES = st.lists(st.integers(0, 7), max_size=6)


def row_of(sizes: list[int]) -> tuple[Tokens, np.ndarray]:
    whole = np.arange(sum(sizes))
    dtypes = ("u1", ">u2", "<u4", "i8")
    parts = np.split(whole, np.cumsum(sizes)[:-1]) if sizes else []
    return Tokens.of(*(p.astype(dtypes[n % 4]) for n, p in enumerate(parts))), whole


@given(SIZES, st.data())
def test_any_part_of_shards_is_read_as_of_one_array(sizes: list[int], data: st.DataObject) -> None:
    tokens, whole = row_of(sizes)
    assert tokens.size == whole.size
    start = data.draw(st.integers(0, whole.size))
    into = np.empty(data.draw(st.integers(0, whole.size - start)), np.int64)
    tokens.read(start, into)
    assert into.tolist() == whole[start : start + into.size].tolist()


@given(SIZES, st.data())
def test_a_part_is_a_row_of_its_own(sizes: list[int], data: st.DataObject) -> None:
    tokens, whole = row_of(sizes)
    start = data.draw(st.integers(0, whole.size))
    stop = data.draw(st.integers(start, whole.size))
    part = tokens.part(start, stop)
    into = np.empty(part.size, np.int64)
    part.read(0, into)
    assert into.tolist() == whole[start:stop].tolist()
    assert all(shard.tokens.size for shard in part.shards)
