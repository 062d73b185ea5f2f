"""Dropout: its rate and scale, and gradients that match the masks of the forward pass."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from models import build

from psdp.backend import make_backend
from psdp.nn.arena import Arena
from psdp.nn.dropout import Dropout

P = 0.3


def layer(size: int) -> Dropout:
    return Dropout(P, size, Arena(make_backend("cpu", "float64"), 1, training=True))


def pass_through(dropout: Dropout, x: np.ndarray, rng: np.random.Generator | None) -> None:
    dropout.draw(x.size, rng)
    dropout.forward(x)


def test_elements_are_dropped_at_the_rate_and_the_rest_scaled() -> None:
    size = 100_000
    dropout, x = layer(size), np.ones(size)
    pass_through(dropout, x, np.random.default_rng(0))
    assert set(np.unique(x)) == {0.0, 1 / (1 - P)}
    # Five standard deviations of a binomial share.
    assert abs((x == 0).mean() - P) < 5 * np.sqrt(P * (1 - P) / size)


def test_backward_uses_the_mask_of_forward() -> None:
    dropout, x = layer(50), np.ones(50)
    pass_through(dropout, x, np.random.default_rng(0))
    dx = dropout.backward(np.ones(50), np.empty(50))
    assert np.array_equal(x, dx)


def test_without_a_generator_everything_passes() -> None:
    dropout, x = layer(50), np.ones(50)
    pass_through(dropout, x, np.random.default_rng(0))
    x[...] = 1
    pass_through(dropout, x, None)
    assert (x == 1).all()
    dy = np.ones(50)
    assert dropout.backward(dy, np.empty(50)) is dy


def test_each_call_draws_anew_and_a_seed_repeats() -> None:
    built = build(dropout=P)

    def loss(rng: np.random.Generator | None) -> float:
        return built.step(built.tokens, built.targets, rng=rng)

    rng = np.random.default_rng(7)
    first, second = loss(rng), loss(rng)
    assert first != second
    assert loss(np.random.default_rng(7)) == first
    assert loss(None) == pytest.approx(
        built.model.evaluate(built.tokens, built.targets)[0].mean(), rel=1e-12
    )


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"position": "rotary"},
        {"parallel_residual": True, "activation": "swiglu"},
        {"n_kv_head": 1, "qk_norm": True, "value_embeddings": True, "logit_softcap": 3.0},
    ],
    ids=str,
)
def test_gradient_of_the_whole_model_under_a_fixed_mask(changes: dict[str, Any]) -> None:
    built = build(dropout=P, n_layer=1, length=6, **changes)

    def loss() -> float:
        rng = np.random.default_rng(7)
        return built.step(built.tokens, built.targets, rng=rng)

    loss()
    expected = built.gradient.copy()
    rng, step = np.random.default_rng(1), 1e-5
    for index in rng.choice(built.weights.size, 150, replace=False):
        kept = built.weights[index]
        built.weights[index] = kept + step
        above = loss()
        built.weights[index] = kept - step
        slope = (above - loss()) / (2 * step)
        built.weights[index] = kept
        # float64: truncation and rounding of the difference are both below 1e-9 here.
        assert slope == pytest.approx(expected[index], rel=1e-6, abs=2e-9)
