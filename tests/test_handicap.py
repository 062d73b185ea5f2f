"""Workers that are slow on purpose."""

from __future__ import annotations

import math

import numpy as np
import pytest

from psdp.errors import ConfigError
from psdp.handicap import NO_JITTER, Handicap, parse_jitter, parse_stragglers


def test_stragglers_by_rank() -> None:
    assert parse_stragglers(None) == {}
    assert parse_stragglers("2:4") == {2: 4.0}
    assert parse_stragglers("2:4,10:1.5") == {2: 4.0, 10: 1.5}


@pytest.mark.parametrize(
    "text", ["", "2", "2:", ":4", "2:4,", "a:4", "2:b", "2:0.5", "2:inf", "2:nan", "2:4,2:3"]
)
def test_wrong_stragglers_are_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="--straggler"):
        parse_stragglers(text)


@pytest.mark.parametrize(
    "text",
    [
        *("", "normal:1", "bernoulli", "bernoulli:0.1", "bernoulli:2:4", "bernoulli:0.1:0.5"),
        *("bernoulli:nan:4", "uniform:3:2", "uniform:0:2", "uniform:1:2:3"),
        *("exponential:-1", "exponential:inf", "pareto:0", "pareto:x"),
        *("uniform:4:4,", ",uniform:4:4", "uniform:4:4,normal:1", "uniform:4:4, pareto:2:3"),
    ],
)
def test_wrong_jitter_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="--jitter"):
        parse_jitter(text)


@pytest.mark.parametrize(
    ("text", "mean"),
    [
        *[("bernoulli:0.1:4", 1.3), ("uniform:1:3", 2.0), ("exponential:0.5", 1.5)],
        *[("pareto:5", 1.25), ("uniform:2:2,bernoulli:0.1:4", 2.6)],
        *[("bernoulli:0.2:2,uniform:1:2,exponential:0.5", 2.7)],
    ],
)
def test_factors_are_at_least_one_and_have_the_mean_they_say(text: str, mean: float) -> None:
    jitter, rng = parse_jitter(text), np.random.default_rng(3)
    factors = [jitter.draw(rng) for _ in range(20_000)]
    assert min(factors) >= 1
    assert math.isclose(jitter.mean, mean)
    assert abs(sum(factors) / len(factors) / mean - 1) < 0.02


def test_several_distributions_multiply_and_are_drawn_in_their_order() -> None:
    both, rng = parse_jitter("uniform:3:5,exponential:0.5"), np.random.default_rng(3)
    again = np.random.default_rng(3)
    expected = [again.uniform(3, 5) * (1 + 0.5 * again.exponential()) for _ in range(10)]
    assert [both.draw(rng) for _ in range(10)] == expected


@pytest.mark.parametrize(
    ("text", "varies"),
    [
        *[
            (None, False),
            ("uniform:4:4", False),
            ("bernoulli:0:4", False),
            ("bernoulli:1:4", False),
        ],
        *[("bernoulli:0.1:1", False), ("exponential:0", False), ("uniform:2:2,uniform:3:3", False)],
        *[("bernoulli:0.1:4", True), ("uniform:1:2", True), ("exponential:0.1", True)],
        *[("pareto:9", True), ("uniform:4:4,bernoulli:0.1:4", True)],
    ],
)
def test_whether_factors_differ(text: str | None, varies: bool) -> None:
    jitter, rng = parse_jitter(text), np.random.default_rng(3)
    assert jitter.varies is varies
    assert (len({jitter.draw(rng) for _ in range(100)}) > 1) is varies


def test_pareto_without_a_mean() -> None:
    assert parse_jitter("pareto:1").mean == math.inf


def test_a_straggler_takes_a_multiple_of_its_own_time_and_others_take_theirs() -> None:
    slow = Handicap(2, 1, 7, stragglers={2: 4.0}, jitter=NO_JITTER)
    other = Handicap(1, 0, 7, stragglers={2: 4.0}, jitter=NO_JITTER)
    assert slow.extra_s(0, 0.5) == 1.5
    assert other.extra_s(0, 0.5) == 0.0


def test_chance_depends_on_seed_worker_and_step_alone() -> None:
    def factors(worker: int, seed: int) -> list[float]:
        jitter = parse_jitter("exponential:1")
        handicap = Handicap(worker + 1, worker, seed, stragglers={}, jitter=jitter)
        return [handicap.extra_s(step, 1.0) for step in range(5)]

    assert factors(0, 7) == factors(0, 7)
    assert factors(0, 7) != factors(1, 7)
    assert factors(0, 7) != factors(0, 8)
    assert len(set(factors(0, 7))) == 5
