"""Partitions: who reads which window, exactly once an epoch, as a function of the seed alone."""

import tracemalloc

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from psdp.data import windows as windows_module
from psdp.data.partition import Partition, splitmix64
from psdp.data.windows import KEYED, SHUFFLED, Grid
from psdp.errors import DataError

SEED = 3
KINDS = ["contiguous", "random", "hash"]


def make(grid: Grid, kind: str, worker: int, workers: int) -> Partition:
    return Partition(grid, kind, worker=worker, workers=workers, seed=SEED)


def windows(grid: Grid, partition: Partition, epoch: int, count: int) -> list[int]:
    """Ids of the windows of the partition's ``epoch``, which has ``count`` samples."""
    starts = partition.starts(epoch, count) - grid.phase(epoch)
    assert not (starts % grid.block_size).any()
    return (starts // grid.block_size).tolist()


def own(grid: Grid, kind: str, worker: int, workers: int) -> list[int]:
    """Ids of the windows that the worker should own."""
    ids = np.arange(grid.count)
    if kind == "hash":
        return ids[splitmix64(SEED, grid.count) % np.uint64(workers) == worker].tolist()
    return ids[grid.count * worker // workers : grid.count * (worker + 1) // workers].tolist()


@given(st.integers(1, 50), st.integers(1, 2000), st.integers(0, 2**70), st.integers(0, 99))
def test_every_window_of_every_epoch_lies_inside_the_split(
    block: int, extra: int, seed: int, epoch: int
) -> None:
    size = block + extra
    grid = Grid(size, block, seed)
    phase = grid.phase(epoch)
    assert 0 <= phase < block
    assert phase + grid.count * block + 1 <= size
    assert grid.phase(epoch) == phase
    assert size - grid.count * block <= 2 * block


def test_the_grid_moves_between_epochs_and_seeds() -> None:
    assert len({Grid(1000, 64, seed).phase(epoch) for seed in (1, 2) for epoch in range(9)}) > 9


@pytest.mark.parametrize("kind", ["contiguous", "hash"])
@given(st.integers(1, 5), st.integers(0, 3), st.integers(100, 400))
def test_an_owner_reads_its_windows_once_an_epoch(
    kind: str, workers: int, epoch: int, size: int
) -> None:
    grid = Grid(size, 3, SEED)
    for worker in range(workers):
        mine = own(grid, kind, worker, workers)
        read = windows(grid, make(grid, kind, worker, workers), epoch, len(mine))
        assert sorted(read) == mine


@given(st.integers(1, 5), st.integers(1, 4), st.integers(0, 3), st.integers(1, 20))
def test_workers_of_one_deck_read_every_window_once_an_epoch(
    workers: int, batch_size: int, epoch: int, batches: int
) -> None:
    count = workers * batch_size * batches  # the deck divides evenly, so that epochs end together
    grid = Grid((count + 1) * 3, 3, SEED)
    assert grid.count == count
    read = np.concatenate(
        [
            make(grid, "random", worker, workers).starts(epoch * batches + batch, batch_size)
            for batch in range(batches)
            for worker in range(workers)
        ]
    )
    expected = grid.phase(epoch) + 3 * np.arange(count)
    assert sorted(read) == expected.tolist()
    if count > 20:
        assert read.tolist() != expected.tolist()


@given(st.integers(1, 6), st.integers(1, 5), st.integers(0, 40), st.integers(21, 300))
def test_workers_of_one_deck_read_what_one_worker_with_their_batches_reads(
    workers: int, batch_size: int, batch: int, size: int
) -> None:
    grid = Grid(size, 3, SEED)
    alone = make(grid, "random", 0, 1).starts(batch, workers * batch_size)
    together = [
        make(grid, "random", worker, workers).starts(batch, batch_size) for worker in range(workers)
    ]
    assert np.concatenate(together).tolist() == alone.tolist()


@pytest.mark.parametrize("kind", KINDS)
@given(st.lists(st.integers(0, 60), min_size=1, max_size=9))
def test_a_batch_does_not_depend_on_what_was_read_before(kind: str, order: list[int]) -> None:
    grid = Grid(200, 3, SEED)
    used = make(grid, kind, 1, 2)
    for batch in order:
        assert used.starts(batch, 5).tolist() == make(grid, kind, 1, 2).starts(batch, 5).tolist()


def test_a_batch_larger_than_an_epoch_goes_round() -> None:
    grid = Grid(13, 3, SEED)
    assert grid.count == 3
    starts = make(grid, "random", 0, 1).starts(0, 8)
    for epoch in range(2):
        piece = starts[3 * epoch : 3 * epoch + 3] - grid.phase(epoch)
        assert sorted(piece) == [0, 3, 6]


@pytest.mark.parametrize("kind", KINDS)
def test_epochs_and_seeds_are_shuffled_differently(kind: str) -> None:
    grid = Grid(3000, 3, SEED)
    count = grid.count if kind == "random" else len(own(grid, kind, 0, 2))
    partition = make(grid, kind, 0, 1 if kind == "random" else 2)
    first, second = (windows(grid, partition, epoch, count) for epoch in range(2))
    assert sorted(first) == sorted(second)
    assert first != second
    other = Partition(grid, "random", worker=0, workers=1, seed=SEED + 1)
    assert other.starts(0, 50).tolist() != make(grid, "random", 0, 1).starts(0, 50).tolist()


def test_a_window_takes_eight_bytes_of_memory_and_may_begin_beyond_what_four_can_say() -> None:
    grid = Grid(1 << 34, 1 << 14, SEED)
    tracemalloc.start()
    try:
        partition = make(grid, "random", 0, 1)
        starts = partition.starts(0, grid.count)
        held = tracemalloc.get_traced_memory()[0] - starts.nbytes
    finally:
        tracemalloc.stop()
    assert held < 10 * grid.count
    by_number = np.sort(starts - grid.phase(0))
    assert (by_number == np.arange(grid.count) * grid.block_size).all()


def test_splitmix64_gives_the_published_numbers() -> None:
    assert splitmix64(1234567, 5).tolist() == [
        6457827717110365317,
        3203168211198807973,
        9817491932198370423,
        4593380528125082431,
        16408922859458223821,
    ]
    assert splitmix64(1234567 + 2**64, 1).tolist() == [6457827717110365317]


def test_a_split_without_room_for_a_window_is_refused() -> None:
    assert Grid(65, 64, SEED).count == 1
    with pytest.raises(DataError, match=r"--block-size 64: .* 64 tokens .* needs 65; lower"):
        Grid(64, 64, SEED)


@pytest.mark.parametrize("worker", range(3))
def test_a_worker_without_windows_is_refused_on_every_worker(worker: int) -> None:
    grid = Grid(9, 3, SEED)
    message = (
        "corpus too short for 3 workers: 9 training tokens make 2 windows of --block-size 3; lower"
    )
    for kind in KINDS:
        with pytest.raises(DataError, match=message):
            make(grid, kind, worker, 3)


@pytest.mark.parametrize("worker", range(3))
def test_windows_enough_for_all_that_a_hash_deals_to_some_are_refused(worker: int) -> None:
    grid = Grid(12, 3, SEED)
    assert grid.count == 3
    assert [] in [own(grid, "hash", other, 3) for other in range(3)]
    message = r"hash leaves worker \d of 3 without a window: 12 training tokens make 3 windows"
    with pytest.raises(DataError, match=message):
        make(grid, "hash", worker, 3)
    for kind in ("contiguous", "random"):
        assert make(grid, kind, worker, 3).starts(0, 1).size == 1


# Where a list of all windows would be too long


@pytest.fixture
def keyed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(windows_module, "KEYED_FROM", 1)


@pytest.mark.usefixtures("keyed")
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("workers", [1, 3])
def test_without_a_list_every_window_is_read_once_an_epoch_too(kind: str, workers: int) -> None:
    grid = Grid(3 * 301, 3, SEED)
    assert (grid.order, grid.count) == (KEYED, 300)
    for epoch in range(2):
        read = []
        for worker in range(workers):
            partition = make(grid, kind, worker, workers)
            count = 300 // workers
            first = epoch * count
            ids = [
                (partition.starts(first + n, 1)[0] - grid.phase(epoch)) // 3 for n in range(count)
            ]
            read += ids
            assert ids != sorted(ids)
            if kind == "contiguous":
                assert {*ids} == {*range(count * worker, count * (worker + 1))}
        assert sorted(read) == list(range(300))


@pytest.mark.usefixtures("keyed")
@pytest.mark.parametrize("kind", ["contiguous", "hash"])
def test_without_a_list_an_owner_keeps_its_windows(kind: str) -> None:
    grid = Grid(3 * 301, 3, SEED)
    first, second = (windows(grid, make(grid, kind, 1, 3), epoch, 100) for epoch in range(2))
    assert sorted(first) == sorted(second)
    assert first != second
    if kind == "hash":
        assert max(first) - min(first) > 150, "they are from all over the grid"


@pytest.mark.usefixtures("keyed")
def test_without_a_list_workers_of_one_deck_read_what_one_worker_reads() -> None:
    grid = Grid(3 * 301, 3, SEED)
    together = [make(grid, "random", worker, 3).starts(70, 2) for worker in range(3)]
    alone = make(grid, "random", 0, 1).starts(70, 6)
    assert np.concatenate(together).tolist() == alone.tolist()


def test_there_is_a_list_below_so_many_windows() -> None:
    assert Grid((1 << 24) * 8, 8, SEED).order == SHUFFLED
    large = Grid(((1 << 24) + 1) * 8, 8, SEED)
    assert large.order == KEYED
    for kind in KINDS:
        partition = make(large, kind, 1, 2)
        assert partition.windows == (1 << 24) // (1 if kind == "random" else 2)
        starts = partition.starts(123_456, 4)
        assert len({*starts.tolist()}) == 4
        assert 0 <= starts.min() <= starts.max() < (1 << 27)
