"""Work side by side: on as many threads as kernels may use, each of which computes alone."""

from __future__ import annotations

import threading
from collections import Counter

import numpy as np
import pytest
from threadpoolctl import threadpool_info, threadpool_limits

from psdp.backend import Backend, make_backend
from psdp.backend.cpu.compiled import CompiledBackend


@pytest.mark.parametrize("kernels", ["numpy", "compiled"])
@pytest.mark.parametrize("threads", [1, 3])
def test_every_item_is_done_once_and_no_two_are_in_one_lane(kernels: str, threads: int) -> None:
    backend: Backend = make_backend("cpu", "float32", kernels=kernels, threads=threads)
    lanes = [threading.Lock() for _ in range(backend.lanes)]
    done: Counter[int] = Counter()

    def work(lane: int, item: int) -> None:
        assert lanes[lane].acquire(blocking=False)
        done[item] += 1
        lanes[lane].release()

    for count in (0, 1, 2, 500):
        done.clear()
        backend.side_by_side(work, range(count))
        assert done == Counter(range(count))


def test_as_many_items_as_there_are_threads_are_done_at_a_time() -> None:
    meeting = threading.Barrier(3)
    CompiledBackend(threads=3).side_by_side(lambda *_: meeting.wait(timeout=60), range(3))


def test_what_an_item_raises_is_raised_from_any_lane() -> None:
    meeting, backend = threading.Barrier(2), CompiledBackend(threads=2)
    for failing in range(2):

        def work(lane: int, _: int, failing: int = failing) -> None:
            meeting.wait(timeout=60)
            assert lane != failing, f"lane {lane}"

        with pytest.raises(AssertionError, match=f"lane {failing}"):
            backend.side_by_side(work, range(2))


def test_kernels_have_the_bits_of_one_thread_there_and_those_of_all_afterwards() -> None:
    x = np.random.default_rng(2).standard_normal((40_003, 5)).astype("f4")

    def sums(backend: Backend) -> bytes:
        backend.add_column_sums(x, total := np.zeros(5, "f4"))
        return total.tobytes()

    alone = sums(CompiledBackend(threads=1))
    backend = CompiledBackend(threads=3)
    of_all = sums(backend)
    found = [b""] * 4
    backend.side_by_side(lambda _, item: found.__setitem__(item, sums(backend)), range(4))
    assert found == [alone] * 4
    assert sums(backend) == of_all != alone


def test_products_of_blas_keep_to_one_thread_there() -> None:
    def blas() -> set[int]:
        return {one["num_threads"] for one in threadpool_info() if one["user_api"] == "blas"}

    found: list[set[int]] = []
    with threadpool_limits(limits=2, user_api="blas"):
        CompiledBackend(threads=2).side_by_side(lambda *_: found.append(blas()), range(3))
        assert blas() == {2}
    assert found == [{1}] * 3
