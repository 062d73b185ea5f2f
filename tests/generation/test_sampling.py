"""Sampling: the filters are the textbook's, and tokens come as often as they should."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from psdp.errors import ConfigError, NumericsError
from psdp.generation import Sampling
from psdp.params import Array

GREEDY = Sampling(0, 0, 1)

logit_vectors = st.lists(st.floats(-30, 30, width=32), min_size=1, max_size=40).map(
    lambda values: np.array(values, np.float32)
)


def torch_probabilities(logits: Array, temperature: float, top_k: int, top_p: float) -> Array:
    """The textbook filters: mask with -inf and take the softmax again (no ties)."""
    x = torch.tensor(logits, dtype=torch.float64) / temperature
    if top_k:
        x[x < torch.topk(x, min(top_k, len(x))).values[-1]] = -torch.inf
    if top_p < 1:
        ordered, places = torch.sort(x, descending=True)
        reached = torch.softmax(ordered, -1).cumsum(-1)
        outside = torch.cat([torch.tensor([False]), reached[:-1] >= top_p])
        x[places[outside]] = -torch.inf
    return torch.softmax(x, -1).numpy()


@pytest.mark.parametrize("temperature", [0.1, 0.8, 1.0, 3.0])
@pytest.mark.parametrize("top_k", [0, 1, 5, 40, 1000])
@pytest.mark.parametrize("top_p", [1.0, 0.9, 0.3, 1e-9])
def test_probabilities_equal_pytorchs(temperature: float, top_k: int, top_p: float) -> None:
    logits = np.random.default_rng(7).standard_normal(100).astype(np.float32) * 3
    got = Sampling(temperature, top_k, top_p).probabilities(logits)
    assert got.dtype == np.float64
    expected = torch_probabilities(logits, temperature, top_k, top_p)
    np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-12)  # the logits are float32
    assert np.array_equal(got > 0, expected > 0)


@pytest.mark.parametrize(
    ("sampling", "expected"),
    [
        (Sampling(1, 0, 1), [0.1, 0.4, 0.2, 0.3]),
        (Sampling(0.5, 0, 1), [1 / 30, 16 / 30, 4 / 30, 9 / 30]),
        (Sampling(1, 2, 1), [0, 4 / 7, 0, 3 / 7]),
        (Sampling(1, 0, 0.65), [0, 4 / 7, 0, 3 / 7]),
        (Sampling(1, 0, 0.75), [0, 4 / 9, 2 / 9, 3 / 9]),
        (Sampling(1, 3, 0.5), [0, 4 / 7, 0, 3 / 7]),  # 4/9 is below a half, 7/9 is not
        (Sampling(1, 1, 1), [0, 1, 0, 0]),
        (Sampling(1, 0, 0.01), [0, 1, 0, 0]),
    ],
)
def test_probabilities_of_four_tokens_by_hand(sampling: Sampling, expected: list[float]) -> None:
    logits = np.log([0.1, 0.4, 0.2, 0.3])
    np.testing.assert_allclose(sampling.probabilities(logits), expected, rtol=1e-12)


def test_of_equal_tokens_the_first_remain() -> None:
    assert Sampling(1, 2, 1).probabilities(np.zeros(4)).tolist() == [0.5, 0.5, 0, 0]
    assert Sampling(1, 0, 0.5).probabilities(np.zeros(4)).tolist() == [0.5, 0.5, 0, 0]
    assert GREEDY.choose(np.array([1.0, 2.0, 2.0]), np.random.default_rng(0)) == 1


@given(logit_vectors, st.floats(0.05, 5), st.integers(0, 50), st.floats(0.01, 1))
def test_what_remains_is_as_few_of_the_likeliest_as_reach_p(
    logits: Array, temperature: float, top_k: int, top_p: float
) -> None:
    among = Sampling(temperature, top_k, 1).probabilities(logits)
    assert np.count_nonzero(among) <= (top_k or logits.size)
    got = Sampling(temperature, top_k, top_p).probabilities(logits)
    assert got.sum() == pytest.approx(1, abs=1e-12)
    kept = among[got > 0]
    assert kept.sum() >= top_p - 1e-12
    assert kept.sum() - kept.min() < top_p + 1e-12
    assert kept.min() >= among[got == 0].max(initial=0)


@pytest.mark.parametrize("temperature", [1e-300, 5e-324, 1e300])
def test_extreme_temperatures_are_the_limits(temperature: float) -> None:
    got = Sampling(temperature, 0, 1).probabilities(np.array([1.0, 5.0, -3.0]))
    expected = [0, 1, 0] if temperature < 1 else [1 / 3] * 3
    np.testing.assert_allclose(got, expected, rtol=1e-12)


def test_tokens_come_as_often_as_their_probabilities_say() -> None:
    logits = np.log([0.05, 0.15, 0.3, 0.5])
    sampling, generator, draws = Sampling(1, 3, 1), np.random.default_rng(11), 20_000
    counts = np.bincount([sampling.choose(logits, generator) for _ in range(draws)], minlength=4)
    expected = draws * np.array([0.15, 0.3, 0.5]) / 0.95
    assert counts[0] == 0
    chi_squared = float(((counts[1:] - expected) ** 2 / expected).sum())
    assert chi_squared < 9.21, "exceeded by chance once in 100 seeds (2 degrees of freedom)"


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("sampling", [GREEDY, Sampling(1, 0, 1)])
def test_a_model_that_diverged_is_an_error_not_a_token(sampling: Sampling, bad: float) -> None:
    with pytest.raises(NumericsError, match="logits hold NaN or Inf"):
        sampling.choose(np.array([0.0, bad]), np.random.default_rng(0))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ((-0.1, 0, 1), "--temperature must be finite and at least 0, got -0.1"),
        ((float("nan"), 0, 1), "--temperature .* got nan"),
        ((float("inf"), 0, 1), "--temperature .* got inf"),
        ((1, -1, 1), "--top-k must be at least 0 .* got -1"),
        ((1, 0, 0), "--top-p must be above 0 and at most 1, got 0"),
        ((1, 0, 1.01), "--top-p .* got 1.01"),
        ((1, 0, float("nan")), "--top-p .* got nan"),
    ],
)
def test_impossible_sampling_is_refused(values: tuple[Any, ...], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Sampling(*values)
