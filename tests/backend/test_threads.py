"""BLAS threads: the cores of a node are shared by its ranks, and each gets at least one."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from threadpoolctl import threadpool_info

from psdp.backend.threads import fair_share, limit_blas


@pytest.mark.parametrize(
    ("own", "neighbours", "threads"),
    [
        (range(8), [range(8)], 8),
        (range(8), [range(8)] * 2, 4),
        (range(8), [range(8)] * 3, 2),
        (range(2), [range(2)] * 3, 1),
        (range(4), [range(4), range(4, 8)], 4),  # each rank is bound to its own half
        ([0], [[0], [1]], 1),
        ([0, 1], [[0, 1], [2, 3, 4, 5, 6, 7]], 2),  # never more than its own cores
        ([5], [[5]] * 4, 1),
    ],
)
def test_a_rank_takes_its_share(own: list[int], neighbours: list[list[int]], threads: int) -> None:
    assert fair_share(own, neighbours, None) == threads


@pytest.mark.parametrize(
    ("cores", "ranks", "quota", "threads"),
    [
        (64, 1, 2.0, 2),
        (64, 2, 8.0, 4),
        (64, 2, 7.9, 3),  # a thread beyond the quota would stop all of them again and again
        (64, 1, 1.5, 1),
        (64, 4, 0.5, 1),
        (4, 2, 100.0, 2),
    ],
)
def test_ranks_share_the_time_that_their_container_grants(
    cores: int, ranks: int, quota: float, threads: int
) -> None:
    assert fair_share(range(cores), [range(cores)] * ranks, quota) == threads


cores = st.lists(st.integers(0, 31), min_size=1, unique=True)


@given(st.lists(cores, min_size=1, max_size=12))
def test_shares_use_the_node_but_never_more_than_it_has(ranks: list[list[int]]) -> None:
    shares = [fair_share(own, ranks, None) for own in ranks]
    node = {core for own in ranks for core in own}
    assert all(1 <= share <= len(own) for share, own in zip(shares, ranks, strict=True))
    assert sum(shares) <= max(len(node), len(ranks))


def blas_threads() -> set[int]:
    np.ones((2, 2)) @ np.ones((2, 2))
    return {pool["num_threads"] for pool in threadpool_info() if pool["user_api"] == "blas"}


def test_the_limit_holds_from_now_on() -> None:
    before = max(blas_threads())
    try:
        limit_blas(1)
        assert blas_threads() == {1}
    finally:
        limit_blas(before)
