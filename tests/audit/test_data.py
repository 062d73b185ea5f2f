"""Which batches were used, and what that means for windows, beside plain counting."""

from __future__ import annotations

import itertools
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from psdp.audit.data import Numbers, Uses, coverage, partitions
from psdp.audit.findings import Contradiction
from psdp.audit.jobs import job_of
from psdp.config import Config
from psdp.data.windows import Grid

TOKENS = 200
SETTINGS = {"block_size": 8, "batch_size": 3, "n_embd": 16, "n_head": 2, "n_layer": 1}


@given(st.lists(st.tuples(st.integers(0, 40), st.integers(1, 6))))
def test_numbers_are_a_set_that_knows_when_one_comes_again(ranges: list[tuple[int, int]]) -> None:
    numbers, expected = Numbers(), set[int]()
    for start, count in ranges:
        added = range(start, start + count)
        if expected.isdisjoint(added):
            numbers.add(added)
            expected |= set(added)
        else:
            with pytest.raises(Contradiction, match="was used before"):
                numbers.add(added)
    pairs = numbers.pairs()
    assert {n for start, stop in pairs for n in range(start, stop)} == expected
    assert len(numbers) == len(expected)
    assert all(stop < start for (_, stop), (start, _) in itertools.pairwise(pairs))
    missing = next(n for n in range(100) if n not in expected)
    assert numbers.first_missing == missing


@given(
    st.sampled_from(["random", "contiguous", "hash"]),
    st.lists(st.integers(0, 9), min_size=3, max_size=3),
    st.integers(1, 2),
    st.booleans(),
)
def test_windows_are_used_as_often_as_is_said(
    partition: str, clocks: list[int], accum: int, deals: bool
) -> None:
    config = SETTINGS | {"partition": partition, "grad_accum": accum}
    config["balance"] = "dynamic" if deals else "static"
    if deals:
        config["partition"] = "random"
    told = {"workers": 3, "ranks": 3, "servers": 1, "unit": "token", "units_per_batch": 24}
    job = job_of(Config.from_flat(config).resolved().flat(), told)
    windows = Grid(TOKENS, 8, job.config.run.seed)
    batches = [(0, sum(clocks))] if deals and sum(clocks) else []
    uses = Uses(job, dict(zip(job.workers, clocks, strict=True)), batches)
    covered = coverage(job, uses, windows)

    counts: Counter[tuple[int, int]] = Counter()
    parts = partitions(job, windows)
    for share, numbers in uses.of.items():
        for batch in range(len(numbers) * accum):
            first = parts[share].sample(batch, 3)
            for index, start in enumerate(parts[share].starts(batch, 3).tolist(), start=first):
                counts[index // parts[share].windows, start] += 1
    assert set(counts.values()) <= {1}
    by_epoch = Counter(epoch for epoch, _ in counts)
    whole = [epoch for epoch, count in by_epoch.items() if count == covered.windows]
    assert covered.whole <= len(whole)
    assert set(range(covered.whole)) <= set(whole)
    assert covered.more == len(counts) - covered.whole * covered.windows
    assert covered.whole + covered.begun == max(by_epoch, default=-1) + 1
    if not (deals or partition == "random") or len(set(clocks)) == 1:
        assert covered.whole == len(whole)
