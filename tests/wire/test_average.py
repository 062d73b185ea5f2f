"""The mean of a round of gradients: exact, repeatable, and safe to write over its inputs."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from psdp.backend import Backend, make_backend
from psdp.optim.blocks import block_size
from psdp.params import Array
from psdp.wire import weighted_mean

BLOCK = block_size("float32")


@pytest.fixture(params=["compiled", "numpy"])
def backend(request: pytest.FixtureRequest) -> Backend:
    return make_backend("cpu", "float32", kernels=request.param)


def gradients_of(count: int, size: int, dtype: str = "float32", seed: int = 0) -> list[Array]:
    rng = np.random.default_rng(seed)
    return [rng.standard_normal(size).astype(dtype) for _ in range(count)]


@settings(deadline=None)
@given(
    size=st.sampled_from([0, 1, BLOCK - 1, BLOCK, BLOCK + 1, 2 * BLOCK + 3]),
    weights=st.lists(st.integers(1, 10_000), min_size=1, max_size=4),
    kind=st.sampled_from(["float32 compiled", "float32 numpy", "float64 numpy"]),
    seed=st.integers(0, 99),
)
def test_mean_equals_numpys_average(size: int, weights: list[int], kind: str, seed: int) -> None:
    dtype, kernels = kind.split()
    backend = make_backend("cpu", dtype, kernels=kernels)
    gradients = gradients_of(len(weights), size, dtype, seed)
    into = np.full(size, np.nan, dtype)
    weighted_mean(into, gradients, weights, backend)
    expected = np.average(np.array(gradients, "float64"), axis=0, weights=weights)
    tolerance = {"float32": 1e-6, "float64": 1e-15}[dtype]
    np.testing.assert_allclose(into, expected, rtol=0, atol=5 * tolerance)


@pytest.mark.parametrize("index", [0, 1, 2])
def test_writing_over_any_of_the_gradients_gives_the_same_bits(
    index: int, backend: Backend
) -> None:
    weights = [3.0, 1.0, 2.0]
    apart = np.empty(2 * BLOCK + 3, "float32")
    weighted_mean(apart, gradients_of(3, apart.size), weights, backend)
    gradients = gradients_of(3, apart.size)
    weighted_mean(gradients[index], gradients, weights, backend)
    assert np.array_equal(gradients[index], apart)
    for other in {0, 1, 2} - {index}:
        assert np.array_equal(gradients[other], gradients_of(3, apart.size)[other])


def test_the_mean_of_one_gradient_is_that_gradient(backend: Backend) -> None:
    (gradient,) = gradients_of(1, 1001)
    into = np.empty_like(gradient)
    weighted_mean(into, [gradient], [768.0], backend)
    assert np.array_equal(into, gradient)


def test_shards_averaged_apart_give_the_bits_of_the_whole(backend: Backend) -> None:
    gradients, weights = gradients_of(3, BLOCK + 101), [1.0, 2.0, 3.0]
    whole, apart = (np.empty(BLOCK + 101, "float32") for _ in range(2))
    weighted_mean(whole, gradients, weights, backend)
    for part in (slice(0, 77), slice(77, None)):
        weighted_mean(apart[part], [g[part] for g in gradients], weights, backend)
    assert np.array_equal(whole, apart)


def test_nan_and_inf_pass_through_silently(backend: Backend) -> None:
    gradients = [np.array(x, "f4") for x in ([np.nan, np.inf, 1.0], [0.0, -np.inf, 1.0])]
    weighted_mean(gradients[0], gradients, [1, 1], backend)
    assert np.isfinite(gradients[0]).tolist() == [False, False, True]


def test_a_second_mean_allocates_nothing_of_its_size(backend: Backend) -> None:
    gradients = gradients_of(3, 20 * BLOCK)
    weighted_mean(gradients[1], gradients, [1, 1, 1], backend)
    tracemalloc.start()
    try:
        weighted_mean(gradients[1], gradients, [1, 1, 1], backend)
        _, peak_bytes = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak_bytes < 16 * 1024
