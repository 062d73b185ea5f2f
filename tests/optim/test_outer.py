"""Outer optimizers against PyTorch's, closed forms, and what delaying the momentum must keep."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from psdp.backend import make_backend
from psdp.optim import Elastic, Optimizer, Outer
from psdp.params import Array, Part

SIZE = 7
WHOLE = Part(range(SIZE), SIZE)


def outer(kind: str, arrivals: int = 1) -> Outer:
    backend = make_backend("cpu", "float64")
    return Outer(WHOLE, backend, kind=kind, momentum=0.8, arrivals=arrivals)


def vectors(count: int, seed: int = 5) -> list[Array]:
    rng = np.random.default_rng(seed)
    return [rng.standard_normal(SIZE) for _ in range(count)]


def run(rule: Optimizer, gradients: list[Array], lr: float) -> Array:
    weights = np.arange(SIZE, dtype="f8")
    for gradient in gradients:
        kept = gradient.copy()
        rule.step(weights, gradient, lr)
        np.testing.assert_array_equal(gradient, kept)
    return weights


@pytest.mark.parametrize("kind", ["average", "momentum", "nesterov"])
def test_a_mean_of_all_workers_at_once_is_what_pytorch_does_with_it(kind: str) -> None:
    torch = pytest.importorskip("torch", reason="needs the extra 'test'")
    gradients = vectors(5)
    parameter = torch.arange(SIZE, dtype=torch.float64, requires_grad=True)
    options = {"average": {}, "momentum": {"momentum": 0.8}}
    nesterov = {"momentum": 0.8, "nesterov": True}
    theirs = torch.optim.SGD([parameter], lr=0.7, **options.get(kind, nesterov))
    for gradient in gradients:
        parameter.grad = torch.from_numpy(gradient)
        theirs.step()
    expected = parameter.detach().numpy()
    np.testing.assert_allclose(run(outer(kind), gradients, 0.7), expected, rtol=1e-13)


@settings(deadline=None, max_examples=25)
@given(st.sampled_from(["average", "momentum", "nesterov"]), st.integers(2, 5), st.integers(1, 3))
def test_merged_one_by_one_a_round_ends_where_its_mean_would(
    kind: str, arrivals: int, rounds: int
) -> None:
    gradients = vectors(arrivals * rounds)
    means = [
        np.mean(gradients[start : start + arrivals], axis=0)
        for start in range(0, len(gradients), arrivals)
    ]
    delayed = run(outer(kind, arrivals), gradients, 0.7)
    np.testing.assert_allclose(delayed, run(outer(kind), means, 0.7), rtol=1e-12)


def test_between_rounds_the_plain_gradient_goes_on() -> None:
    (gradient,) = vectors(1)
    expected = np.arange(SIZE) - 0.7 * gradient / 3
    np.testing.assert_allclose(run(outer("nesterov", 3), [gradient], 0.7), expected, rtol=1e-14)


@pytest.mark.parametrize(
    ("kind", "arrivals", "names"),
    [
        ("average", 1, set()),
        ("average", 4, set()),
        ("momentum", 1, {"momentum"}),
        ("nesterov", 4, {"momentum", "pending"}),
    ],
)
def test_a_rule_keeps_no_more_than_it_needs(kind: str, arrivals: int, names: set[str]) -> None:
    assert set(outer(kind, arrivals).state()) == names


def test_a_saved_state_goes_on_within_a_round() -> None:
    gradients = vectors(6)
    whole, first, second = (outer("nesterov", 4) for _ in range(3))
    expected = run(whole, gradients, 0.7)
    weights = run(first, gradients[:3], 0.7)
    second.load({name: vector.copy() for name, vector in first.state().items()}, first.updates)
    for gradient in gradients[3:]:
        second.step(weights, gradient, 0.7)
    np.testing.assert_array_equal(weights, expected)


def test_elastic_moves_towards_a_workers_weights() -> None:
    rule = Elastic(WHOLE, make_backend("cpu", "float64"))
    (own,) = vectors(1)
    expected = np.arange(SIZE) + 0.25 * (own - np.arange(SIZE))
    np.testing.assert_allclose(run(rule, [own], 0.25), expected, rtol=1e-14)
