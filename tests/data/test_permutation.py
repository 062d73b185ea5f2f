"""Keyed permutations: each number once, for any size and key."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from psdp.data.permutation import Permutation


@given(st.integers(1, 5000), st.lists(st.integers(0, 2**70), min_size=1, max_size=4))
def test_every_number_stands_at_one_place(size: int, key: list[int]) -> None:
    order = Permutation(size, key)(np.arange(size))
    assert np.bincount(order, minlength=size).tolist() == [1] * size


def test_a_place_is_the_same_asked_for_alone() -> None:
    permutation = Permutation(1000, [1])
    whole = permutation(np.arange(1000))
    assert [int(permutation(np.array([n]))[0]) for n in range(0, 1000, 77)] == whole[::77].tolist()


def test_keys_give_orders_that_have_nothing_in_common() -> None:
    size = 10_000
    orders = [Permutation(size, [key])(np.arange(size)) for key in range(4)]
    for n, order in enumerate(orders):
        # Of a random order these are normal with deviation 1 / sqrt(size).
        assert abs(np.corrcoef(order, np.arange(size))[0, 1]) < 0.05
        assert abs(np.corrcoef(order[1:], order[:-1])[0, 1]) < 0.05
        for other in orders[:n]:
            assert abs(np.corrcoef(order, other)[0, 1]) < 0.05
            assert (order == other).sum() < 10


def test_the_largest_of_sizes_needs_no_list() -> None:
    size = 1 << 40
    found = Permutation(size, [1])(np.array([0, 1, size - 1]))
    assert len(set(found.tolist())) == 3
    assert 0 <= found.min() <= found.max() < size
