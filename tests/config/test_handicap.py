"""What slows workers down on purpose, as it is said."""

from __future__ import annotations

import math

import numpy as np
import pytest

from psdp.config import Config
from psdp.config.handicap import (
    Slowing,
    Span,
    factor_at,
    in_words,
    parse_jitter,
    parse_slow_link,
    parse_stragglers,
)
from psdp.errors import ConfigError


def test_stragglers_by_rank() -> None:
    assert parse_stragglers(None) == {}
    assert parse_stragglers("none") == {}
    assert parse_stragglers("2:4") == {2: (Slowing(4),)}
    assert parse_stragglers("2:4,10:1.5") == {2: (Slowing(4),), 10: (Slowing(1.5),)}


def test_a_straggler_may_be_one_for_a_while() -> None:
    slow = parse_stragglers("4:4@200-600,4:2@1000-,5:3@20s-60.5s,5:2@1s-")
    assert slow == {
        4: (Slowing(4, Span(200, 600)), Slowing(2, Span(1000))),
        5: (Slowing(3, Span(20, 60.5, in_seconds=True)), Slowing(2, Span(1, in_seconds=True))),
    }
    for step, factor in ((199, 1), (200, 4), (599, 4), (600, 1), (999, 1), (1000, 2), (10**9, 2)):
        assert factor_at(slow[4], step, time_s=0.0) == factor
    for time_s, factor in ((0.5, 1), (1, 2), (20, 6), (60.4, 6), (60.5, 2)):
        assert factor_at(slow[5], step=0, time_s=time_s) == factor
    assert in_words(slow[4]) == (
        "4 times slower from step 200 to 600, 2 times slower from step 1000"
    )
    assert in_words(slow[5]) == "3 times slower from 20 s to 60.5 s, 2 times slower from 1 s"


def test_links_may_be_slower_for_a_while() -> None:
    assert parse_slow_link(None) == parse_slow_link("none") == ()
    assert parse_slow_link("10@20s-60s,2@5s-") == (
        Slowing(10, Span(20, 60, in_seconds=True)),
        Slowing(2, Span(5, in_seconds=True)),
    )


@pytest.mark.parametrize(
    "text", ["", "10", "10@20-60", "10@20s-60", "0.5@1s-2s", "x@1s-2s", "10@2s-1s", "10@1s"]
)
def test_wrong_slow_links_are_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="--slow-link"):
        parse_slow_link(text)


def test_there_must_be_links_to_slow() -> None:
    given = {"slow_link": "10@20s-60s"}
    with pytest.raises(ConfigError, match="--slow-link 10@20s-60s slows the links of --link-mbps"):
        Config.from_flat(given).resolved()
    assert Config.from_flat(given | {"link_mbps": 5.0}).resolved().run.slow_link == "10@20s-60s"


def test_none_is_as_if_nothing_had_been_said() -> None:
    given = {"straggler": "none", "jitter": "none", "slow_link": "none"}
    assert Config.from_flat(given).resolved() == Config().resolved()


@pytest.mark.parametrize(
    "text",
    [
        *("", "2", "2:", ":4", "2:4,", "a:4", "2:b", "2:0.5", "2:inf", "2:nan", "2:4,2:3"),
        "9" * 5000 + ":4",  # of so many digits Python reads no number
        *("2:4,2:3@1-2", "2:4@", "2:4@5", "2:4@5-5", "2:4@6-5", "2:4@-5", "2:4@1.5-2", "2:4@1s-2"),
        *("2:4@1-2s", "2:4@1..2-3", "2:4@1-2@3-4", "none,2:4"),
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
            ("none", False),
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
