"""Steps of workers that are slow on purpose."""

from __future__ import annotations

import numpy as np
import pytest

from psdp.config.handicap import NO_JITTER, parse_jitter, parse_stragglers
from psdp.workers.handicap import Handicap


def test_a_straggler_takes_a_multiple_of_its_own_time_and_others_take_theirs() -> None:
    stragglers = parse_stragglers("2:4")
    slow = Handicap(2, 1, 7, stragglers=stragglers, jitter=NO_JITTER)
    other = Handicap(1, 0, 7, stragglers=stragglers, jitter=NO_JITTER)
    assert slow.extra_s(0, 0.5, 0.0) == 1.5
    assert other.extra_s(0, 0.5, 0.0) == 0.0


def test_a_step_is_slow_if_it_begins_while_its_worker_is() -> None:
    stragglers = parse_stragglers("2:4@3-5,3:4@10s-20s")
    by_step = Handicap(2, 1, 7, stragglers=stragglers, jitter=NO_JITTER)
    assert [by_step.extra_s(step, 1.0, 0.0) for step in range(6)] == [0, 0, 0, 3, 3, 0]
    by_time = Handicap(3, 2, 7, stragglers=stragglers, jitter=NO_JITTER)
    assert [by_time.extra_s(0, 1.0, begin_s) for begin_s in (9.9, 10.0, 19.9, 20.0)] == [0, 3, 3, 0]


def test_chance_depends_on_seed_worker_and_step_alone() -> None:
    def factors(worker: int, seed: int) -> list[float]:
        jitter = parse_jitter("exponential:1")
        handicap = Handicap(worker + 1, worker, seed, stragglers={}, jitter=jitter)
        return [handicap.extra_s(step, 1.0, 0.0) for step in range(5)]

    assert factors(0, 7) == factors(0, 7)
    assert factors(0, 7) != factors(1, 7)
    assert factors(0, 7) != factors(0, 8)
    assert len(set(factors(0, 7))) == 5


@pytest.mark.parametrize("seed", [0, 7, 2**32 - 1, 2**32, 2**70 + 5])
def test_chance_is_what_numpy_makes_of_seed_worker_and_step(seed: int) -> None:
    handicap = Handicap(4, 3, seed, stragglers={}, jitter=parse_jitter("exponential:1"))
    for step in (0, 5, 2**20):
        rng = np.random.default_rng([seed, 3, 0x736C6F77, step])
        assert handicap.extra_s(step, 1.0, 0.0) == 1 + rng.exponential() - 1
