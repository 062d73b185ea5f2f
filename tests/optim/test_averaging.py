"""The average of the weights, beside its closed form."""

from __future__ import annotations

import math

import numpy as np
import pytest

from psdp.backend import make_backend
from psdp.optim import WeightAverage
from psdp.params import Array, Part

SIZE = 1000


def averaged(decay: float, dtype: str, versions: list[Array], steps: list[float]) -> Array:
    """Return the average of the first of these vectors, and of those after it that updates made
    which were worth so many steps each."""
    backend = make_backend("cpu", dtype, kernels="numpy")
    average = WeightAverage(decay, Part(range(SIZE), SIZE), backend)
    average.begin(versions[0].astype(dtype))
    before = 0.0
    for weights, worth in zip(versions[1:], steps, strict=True):
        average.add(weights.astype(dtype), before, worth)
        before += worth
    return average.values


def expected(decay: float, versions: list[Array], steps: list[float]) -> Array:
    """Return the same as one sum: each vector counts with 1 - its own decay, times those after."""
    begins = [math.fsum(steps[:n]) for n in range(len(steps))]
    kept = [min(decay, (1 + t) / (10 + t)) ** s for t, s in zip(begins, steps, strict=True)]
    shares = [1.0, *(1 - d for d in kept)]
    after = [math.prod(kept[n:]) for n in range(len(versions))]
    terms = zip(shares, after, versions, strict=True)
    return np.sum([share * rest * weights for share, rest, weights in terms], axis=0)


@pytest.mark.parametrize("steps", [[1.0] * 30, [0.25] * 30, [0.5, 8.0, 3.0], []], ids=len)
@pytest.mark.parametrize("decay", [0.0, 0.3, 0.9])
def test_it_is_the_sum_that_its_formula_says(decay: float, steps: list[float]) -> None:
    rng = np.random.default_rng(5)
    versions = [rng.standard_normal(SIZE) for _ in range(len(steps) + 1)]
    reference = expected(decay, versions, steps)
    for dtype, within in (("float64", 1e-14), ("float32", 1e-6)):
        found = averaged(decay, dtype, versions, steps)
        np.testing.assert_allclose(found, reference, rtol=0, atol=within)


def test_of_four_updates_a_quarter_of_a_step_each_as_much_is_left_as_of_one() -> None:
    first, later = np.ones(SIZE), np.zeros(SIZE)
    settled = 1e6  # steps after which the decay is the whole
    backend = make_backend("cpu", "float64", kernels="numpy")
    left = []
    for count in (1, 4):
        average = WeightAverage(0.9, Part(range(SIZE), SIZE), backend)
        average.begin(first)
        for _ in range(count):
            average.add(later, settled, 1 / count)
        left.append(average.values[0])
    assert left == pytest.approx([0.9, 0.9], rel=1e-12)


def test_weights_that_stay_are_their_own_average() -> None:
    weights = np.linspace(-1, 1, SIZE)
    found = averaged(0.99, "float32", [weights] * 20, [1.0] * 19)
    np.testing.assert_array_equal(found, weights.astype("float32"))
