"""What slows workers down on purpose, as it is said."""

from __future__ import annotations

import math

import numpy as np
import pytest

from psdp.config.handicap import parse_jitter, parse_stragglers
from psdp.errors import ConfigError


def test_stragglers_by_rank() -> None:
    assert parse_stragglers(None) == {}
    assert parse_stragglers("2:4") == {2: 4.0}
    assert parse_stragglers("2:4,10:1.5") == {2: 4.0, 10: 1.5}


@pytest.mark.parametrize(
    "text",
    [
        *("", "2", "2:", ":4", "2:4,", "a:4", "2:b", "2:0.5", "2:inf", "2:nan", "2:4,2:3"),
        "9" * 5000 + ":4",  # of so many digits Python reads no number
    ],
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
