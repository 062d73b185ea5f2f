"""Which rank computes for which worker, whatever is lost."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from psdp.protocol import Hosting


@given(st.integers(1, 12), st.integers(1, 8), st.data())
def test_every_worker_has_one_living_rank_until_the_last_is_lost(
    workers: int, ranks: int, data: st.DataObject
) -> None:
    hosting = Hosting(range(1, workers + 1), range(3, 3 + ranks))
    loads = [len(hosting.hosted(rank)) for rank in hosting.ranks]
    assert sorted(loads, reverse=True) == loads
    assert max(loads) - min(loads) <= 1
    gone: set[int] = set()
    while len(gone) < ranks:
        lost = data.draw(st.sampled_from(sorted(set(hosting.ranks) - gone)))
        gone.add(lost)
        before, heirs = hosting.hosted(lost), hosting.heirs(lost, gone)
        if len(gone) == ranks:
            assert heirs == {}
            break
        assert tuple(heirs) == before
        for worker, heir in heirs.items():
            loads = [
                (len(hosting.hosted(rank)), rank) for rank in hosting.ranks if rank not in gone
            ]
            assert heir == min(loads)[1]
            hosting.move(worker, heir)
            assert hosting.hosted_once(lost, worker)
        assert not hosting.hosted(lost)
        hosted = [worker for rank in hosting.ranks for worker in hosting.hosted(rank)]
        assert sorted(hosted) == list(range(1, workers + 1))
        assert not gone.intersection(map(hosting.host, hosted))


def test_a_spare_rank_comes_first() -> None:
    hosting = Hosting([1, 2, 3], [1, 2, 3, 4])
    assert hosting.heirs(2) == {2: 4}
    hosting.move(2, 4)
    assert hosting.heirs(1) == {1: 2}  # which may be back: it has no worker
    assert hosting.heirs(1, gone={2}) == {1: 3}


def test_who_gets_a_worker_back_is_its_rank_again() -> None:
    hosting = Hosting([1], [1, 2])
    hosting.move(1, 2)
    hosting.move(1, 1)
    assert (hosting.host(1), hosting.hosted_once(1, 1), hosting.hosted_once(2, 1)) == (
        1,
        False,
        True,
    )
    assert hosting.host(9) is None


def test_what_a_spare_rank_could_take_is_what_others_have_beyond_their_own() -> None:
    hosting = Hosting([1, 2, 3, 4], [1, 2, 3], spares=1)
    assert (hosting.most, hosting.crowd) == (2, ())
    assert hosting.heirs(1, gone={3}) == {1: 2, 2: 2}
    for worker in (1, 2):
        hosting.move(worker, 2)
    assert hosting.crowd == (1, 2)  # which were another rank's, and not its own 3 and 4
    hosting.move(1, 3)
    assert hosting.crowd == (2,)
    hosting.move(2, 3)
    assert hosting.crowd == ()


def test_one_more_than_others_is_no_crowd() -> None:
    hosting = Hosting([1, 2, 3], [1, 2])
    assert (hosting.most, hosting.hosted(1)) == (2, (1, 2))
    hosting.move(2, 2)
    assert hosting.crowd == ()
    hosting.move(1, 2)
    assert hosting.crowd == (1,)  # beside its own, 3, one other is as many as there were at first
