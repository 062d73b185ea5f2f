"""Norms that survive overflow, NaN that is never missed, and PyTorch's clip factor."""

from __future__ import annotations

import math
import tracemalloc
from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from psdp.backend import make_backend
from psdp.backend.squares import (
    clip_coefficient,
    few_with_the_sum_of,
    norm_of,
    sum_of_squares,
)
from psdp.params import Init, ParamSpec, ParamTable

every_dtype = pytest.mark.parametrize("dtype", ["float32", "float64"])


@every_dtype
@settings(deadline=None)
@given(
    size=st.sampled_from([0, 1, 7, 8191, 8192, 8193, 30_001]),
    exponent=st.integers(-10, 10),
    seed=st.integers(0, 99),
)
def test_sum_equals_the_exact_sum(dtype: str, size: int, exponent: int, seed: int) -> None:
    vector = (np.random.default_rng(seed).standard_normal(size) * 10.0**exponent).astype(dtype)
    exact = math.fsum(float(x) ** 2 for x in vector)
    tolerance = {"float32": 2e-6, "float64": 1e-13}[dtype]
    assert sum_of_squares(vector) == pytest.approx(exact, rel=tolerance)


def test_many_small_terms_are_not_lost_in_float32() -> None:
    vector = np.full(5_000_000, 0.1, "float32")
    assert sum_of_squares(vector) == pytest.approx(50_000 * (float(np.float32(0.1)) / 0.1) ** 2)


@every_dtype
@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("index", [0, 8191, 8192, 19_999])
def test_one_bad_element_anywhere_is_found(dtype: str, bad: float, index: int) -> None:
    vector = np.ones(20_000, dtype)
    vector[index] = bad
    assert not math.isfinite(sum_of_squares(vector))


def test_a_bad_element_is_found_behind_huge_ones() -> None:
    vector = np.full(20_000, 1e38, "float32")
    vector[-1] = math.nan
    assert not math.isfinite(sum_of_squares(vector))


def test_finite_float32_that_overflows_its_squares_is_not_taken_for_inf() -> None:
    vector = np.full(20_000, 3e38, "float32")
    expected = 20_000 * float(np.float32(3e38)) ** 2
    assert sum_of_squares(vector) == pytest.approx(expected, rel=1e-12)


@every_dtype
def test_rows_of_zeros_beside_huge_ones_are_no_special_case(dtype: str) -> None:
    vector = np.zeros(30_001, dtype)
    vector[8192] = np.finfo(dtype).max
    largest = float(vector[8192])
    assert sum_of_squares(vector) == min(largest * largest, 2.0**1000)


def test_finite_float64_beyond_every_range_saturates_and_can_be_added() -> None:
    shards = [sum_of_squares(np.full(20_000, 1e300)) for _ in range(1000)]
    assert math.isfinite(sum(shards))
    assert clip_coefficient(math.sqrt(sum(shards)), 1.0) < 1e-100


def test_sum_allocates_no_vector() -> None:
    vector = np.ones(100_000, "float32")
    sum_of_squares(vector)
    tracemalloc.start()
    try:
        sum_of_squares(vector)
        _, peak_bytes = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak_bytes < 4096


@pytest.mark.parametrize("limit", [0.5, 1.0, 1e6])
def test_factor_equals_pytorchs_clip_grad_norm(limit: float) -> None:
    vector = np.random.default_rng(0).standard_normal(1000)
    parameter = torch.nn.Parameter(torch.zeros(1000, dtype=torch.float64))
    parameter.grad = torch.tensor(vector)
    norm = torch.nn.utils.clip_grad_norm_([parameter], limit).item()
    assert math.sqrt(sum_of_squares(vector)) == pytest.approx(norm, rel=1e-12)
    np.testing.assert_allclose(
        vector * clip_coefficient(norm, limit), parameter.grad.numpy(), rtol=1e-12
    )


def test_no_limit_leaves_the_gradient_alone() -> None:
    assert clip_coefficient(1e30, 0.0) == 1.0


def test_a_norm_that_is_not_finite_never_passes_as_a_good_factor() -> None:
    assert math.isnan(clip_coefficient(math.nan, 1.0))
    assert clip_coefficient(math.inf, 1.0) == 0.0


# Of a gradient that is in parts


@settings(deadline=None)
@given(st.lists(st.floats(0, 1e300), max_size=60))
def test_few_numbers_have_exactly_the_sum_of_many(terms: list[float]) -> None:
    few = few_with_the_sum_of(terms)
    assert sum(map(Fraction, few)) == sum(map(Fraction, terms))
    assert len(few) <= 40  # which covers all of float64


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_few_numbers_do_not_hide_one_that_is_not_finite(bad: float) -> None:
    assert not math.isfinite(norm_of([1.0, *few_with_the_sum_of([1.0, bad, 2.0])]))


@every_dtype
@settings(deadline=None, max_examples=20)
@given(
    rows=st.sampled_from([1, 9, 200, 3000]),
    exponent=st.sampled_from([-30, 0, 18]),
    whole=st.booleans(),
    seed=st.integers(0, 99),
)
def test_the_norm_has_the_same_bits_for_any_number_of_servers_in_any_order(
    dtype: str, rows: int, exponent: int, whole: bool, seed: int
) -> None:
    table = ParamTable(
        ParamSpec(f"w{i}", (rows, 50 + i), Init("zeros"), decay=i < 2, embedding=i == 1)
        for i in range(4)
    )
    rng = np.random.default_rng(seed)
    gradient = (rng.standard_normal(table.size) * 10.0**exponent).astype(dtype)
    backend = make_backend("cpu", dtype)
    norms = set()
    for count in (1, 2, 3, 5):
        parts = table.parts(count, lambda spec: whole and spec.matrix)
        squares = [backend.squares(gradient[p.span.start : p.span.stop], p) for p in parts]
        rng.shuffle(squares)
        norms.add(norm_of(square for few in squares for square in few))
    assert len(norms) == 1
    exact = math.sqrt(math.fsum(float(x) ** 2 for x in gradient))
    assert norms.pop() == pytest.approx(exact, rel=2e-6)
