"""Batches: targets are inputs one token later, and a validation counts every target once."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from psdp.data.batches import Batches, Validation
from psdp.data.tokens import Tokens
from psdp.data.windows import Grid, SideBySide
from psdp.errors import DataError


def make(tokens: Any, **changes: Any) -> Batches:
    settings: dict[str, Any] = {
        "batch_size": 3,
        "worker": 0,
        "workers": 1,
        "partition": "random",
        "seed": 1,
    }
    settings |= changes
    row = Tokens.of(tokens)
    return Batches(row, Grid(row.size, 8, settings["seed"]), **settings)


def evaluated(tokens: Any, block: int, batch_size: int, sample: int = 0) -> Validation:
    row = Tokens.of(tokens)
    return Validation(row, SideBySide(row.size, block), batch_size, sample)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.uint32, ">i4"])
@pytest.mark.parametrize("partition", ["contiguous", "random", "hash"])
def test_targets_are_the_inputs_one_token_later(dtype: Any, partition: str) -> None:
    batches = make(np.arange(250).astype(dtype), partition=partition)
    for number in range(20):
        x, y, counted = batches.batch(number)
        assert x.shape == y.shape == counted.shape == (3, 8)
        assert x.dtype == y.dtype == np.int64
        assert (np.diff(x) == 1).all()
        assert (y == x + 1).all()
        assert counted.all()


@pytest.mark.parametrize("workers", [1, 2, 3])
def test_workers_together_read_what_one_worker_reads_with_all_their_rows(workers: int) -> None:
    tokens = np.arange(1000)
    each = [make(tokens, workers=workers, worker=worker) for worker in range(workers)]
    alone = make(tokens, batch_size=3 * workers)
    for number in range(100):
        together = np.concatenate([batches.batch(number).tokens for batches in each])
        assert (together == alone.batch(number).tokens).all()


def test_a_run_resumes_from_its_number_alone() -> None:
    first = make(np.arange(500))
    for number in range(60):
        expected = first.batch(number).tokens.copy()
    assert (make(np.arange(500)).batch(59).tokens == expected).all()


def test_batches_fill_the_same_arrays_again() -> None:
    batches = make(np.arange(500))
    assert batches.batch(0).tokens is batches.batch(1).tokens


def test_a_corpus_of_one_window_is_enough() -> None:
    batches = make(np.arange(9))
    for number in range(4):
        assert (batches.batch(number).tokens == np.arange(8)).all()


def counted_targets(validation: Validation, part: range) -> list[int]:
    targets: list[int] = []
    for x, y, counted in validation.batches(part):
        assert (y == x + 1).all()
        targets += y[counted].tolist()
    return targets


@given(st.integers(1, 20), st.integers(1, 5), st.integers(1, 300), st.integers(1, 6))
def test_the_whole_split_is_counted_once_over_all_parts(
    block: int, batch_size: int, extra: int, workers: int
) -> None:
    tokens = np.arange(block + extra)
    validation = evaluated(tokens, block, batch_size)
    parts = [validation.part(worker, workers) for worker in range(workers)]
    assert [batch for part in parts for batch in part] == list(range(validation.count))
    assert max(map(len, parts)) - min(map(len, parts)) <= 1
    targets = [target for part in parts for target in counted_targets(validation, part)]
    assert sorted(targets) == tokens[1:].tolist()
    assert validation.units == validation.split_units == len(targets)


@given(st.integers(1, 20), st.integers(1, 5), st.integers(1, 300), st.integers(1, 30))
def test_a_sample_is_the_same_however_many_sequences_make_a_batch(
    block: int, batch_size: int, extra: int, sample: int
) -> None:
    tokens = np.arange(block + extra)
    validation = evaluated(tokens, block, batch_size, sample)
    targets = counted_targets(validation, validation.part(0, 1))
    one_by_one = evaluated(tokens, block, 1, sample)
    assert targets == counted_targets(one_by_one, one_by_one.part(0, 1))
    assert len(targets) == len(set(targets)) == validation.units > 0
    assert validation.split_units == tokens.size - 1
    assert one_by_one.count == min(sample, evaluated(tokens, block, 1).count)


def test_a_sample_is_spread_over_the_split() -> None:
    validation = evaluated(np.arange(1001), 10, 2, sample=4)
    starts = [batch.tokens[:, 0].tolist() for batch in validation.batches(range(2))]
    assert starts == [[0, 250], [500, 750]]


def test_evaluations_repeat() -> None:
    validation = evaluated(np.arange(100), 7, 2, 3)
    assert counted_targets(validation, range(2)) == counted_targets(validation, range(2))


@pytest.mark.parametrize("size", [0, 1, 64])
def test_a_validation_split_without_room_for_a_window_is_refused(size: int) -> None:
    with pytest.raises(DataError, match=rf"has {size} tokens and a window needs 65; raise --val"):
        evaluated(np.zeros(size, np.uint8), 64, 2)
