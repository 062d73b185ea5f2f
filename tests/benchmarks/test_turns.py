"""Sides in processes of their own, which work by turns."""

from __future__ import annotations

import os
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from training import Side, Size, batches
from turns import WARMUP_STEPS, Runner, SideFailed, peak_bytes, take_turns

from psdp.config import ModelConfig
from psdp.params import Array

SIZE = Size(ModelConfig(1, 1, 4, 4), vocab_size=7, batch_size=1, steps=1)
CORE = max(os.sched_getaffinity(0))


def told(diary: Path, name: str) -> Side:
    """Return a side that writes its name down at every step; its losses are its tokens' sums."""

    def step(tokens: Array, targets: Array) -> float:
        with diary.open("a") as file:
            file.write(name)
        return float(tokens.sum())

    return Side(step, {"name": name})


def on_cores() -> Side:
    return Side(lambda _tokens, _targets: float(sum(os.sched_getaffinity(0))))


def greedy() -> Side:
    held = np.ones(50_000_000, np.uint8)
    return Side(lambda _tokens, _targets: float(held[0]))


def fails(in_step: bool) -> Side:
    def step(tokens: Array, targets: Array) -> float:
        raise ValueError("no compiler\nand more")

    if not in_step:
        raise MemoryError("not enough")
    return Side(step)


def dies() -> Side:
    os._exit(3)


def test_sides_take_turns_and_who_goes_first_moves_on(tmp_path: Path) -> None:
    diary = tmp_path / "diary"
    runners = [Runner(partial(told, diary, name), SIZE, [CORE]) for name in "abc"]
    take_turns(runners, rounds=4, steps=2)
    for runner in runners:
        runner.stop()
    assert diary.read_text() == "aabbcc" + "bbccaa" + "ccaabb" + "aabbcc"
    assert [runner.facts for runner in runners] == [{"name": name} for name in "abc"]
    assert all(len(runner.seconds) == 4 for runner in runners)


def test_all_sides_see_the_same_batches_and_warming_up_is_not_timed(tmp_path: Path) -> None:
    data = batches(SIZE)
    sums = [float(next(data)[0].sum()) for _ in range(WARMUP_STEPS + 3)]
    runner = Runner(partial(told, tmp_path / "diary", "a"), SIZE, [CORE])
    runner.warm_up()
    runner.take(3)
    runner.stop()
    assert runner.losses == sums
    assert len(runner.seconds) == 1


def test_a_side_is_pinned_once_it_is_warm() -> None:
    runner = Runner(on_cores, SIZE, [CORE])
    runner.warm_up()
    runner.take(1)
    runner.stop()
    assert runner.losses[-1] == CORE


def test_the_peak_of_memory_is_that_of_the_side_alone() -> None:
    held = np.ones(200_000_000, np.uint8)
    runner = Runner(greedy, SIZE, [CORE])
    runner.stop()
    assert 50e6 < runner.peak_bytes < 200e6 < peak_bytes()
    assert held[0] == 1


@pytest.mark.parametrize(
    ("make", "why"),
    [
        (partial(fails, in_step=False), "MemoryError: not enough"),
        (partial(fails, in_step=True), "ValueError: no compiler"),
        (dies, "the process ended"),
    ],
)
def test_a_side_that_fails_says_why_in_a_line(make: partial[Side], why: str) -> None:
    with pytest.raises(SideFailed) as failure:
        Runner(make, SIZE, [CORE]).warm_up()
    assert failure.value.why.startswith(why)
    assert "\n" not in failure.value.why
