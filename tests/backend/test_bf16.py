"""What is pushed in half the bytes: rounded as PyTorch rounds, averaged and summed as its float32.

The GPU's kernels run on an emulated device here.
"""

from __future__ import annotations

import math
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import torch
from emulated.device import EmulatedDevice
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from psdp.backend import BF16, Backend, make_backend
from psdp.backend.gpu.backend import GpuBackend
from psdp.params import Array

BACKENDS = ["numpy", "compiled", "gpu float32", "gpu bf16"]
LARGEST = float(torch.finfo(torch.bfloat16).max)


@pytest.fixture(params=BACKENDS)
def backend(request: pytest.FixtureRequest, kernel_folder: Path) -> Backend:
    kind, *precision = request.param.split()
    if kind == "gpu":
        return GpuBackend(EmulatedDevice(kernel_folder), "float32", *precision)
    return make_backend("cpu", "float32", kernels=kind)


fresh_arrays = settings(
    deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60
)
float32_bits = st.lists(
    st.integers(0, 2**32 - 1)
    # Near ties, where the lower half decides, and the upper half's last bit.
    | st.tuples(
        st.integers(0, 2**16 - 1), st.sampled_from([0, 1, 0x7FFF, 0x8000, 0x8001, 0xFFFF])
    ).map(lambda halves: halves[0] << 16 | halves[1]),
    min_size=1,
    max_size=70,
)
EDGES = [
    *(0x7F800000, 0xFF800000),  # Inf
    *(0x7F800001, 0xFF800001, 0x7FFFFFFF, 0xFFFFFFFF, 0x7FC00000),  # NaN, quiet or not
    *(0x7F7F7FFF, 0x7F7F8000, 0x7F7FFFFF),  # the last that stays finite, and who does not
    *(0, 0x80000000, 1, 0x80000001, 0x8000, 0x8001),  # zeros and numbers that are next to it
]


def rounded(backend: Backend, x: Array) -> Array:
    """Return what a backend makes of float32 numbers on the host, on the device."""
    device, out = backend.empty(x.size), backend.empty(x.size, dtype=BF16)
    backend.to_device(x, device)
    backend.round_bf16(device, out)
    return out


def wide(bits: Array) -> Array:
    """Return as float32 what bfloat16 numbers are, by PyTorch."""
    numbers: Array = torch.from_numpy(bits.view(np.int16)).view(torch.bfloat16).float().numpy()
    return numbers


def normal(size: int, seed: int) -> Array:
    return np.random.default_rng(seed).standard_normal(size).astype(np.float32)


@fresh_arrays
@example(bits=EDGES)
@given(bits=float32_bits)
def test_numbers_are_rounded_to_the_nearest_as_pytorch_does(
    backend: Backend, bits: list[int]
) -> None:
    x = np.array(bits, np.uint32).view(np.float32)
    got = backend.on_host(rounded(backend, x))
    expected = torch.from_numpy(x.copy()).bfloat16().view(torch.int16).numpy().view(np.uint16)
    is_nan = np.isnan(x)
    assert np.array_equal(got[~is_nan], expected[~is_nan])
    assert np.isnan(wide(got)[is_nan]).all()


@pytest.mark.parametrize("size", [1, 255, 65_535, 200_003])
def test_vectors_longer_than_a_block_are_rounded_everywhere(backend: Backend, size: int) -> None:
    x = normal(size, 1)
    x[size // 2] = np.nan
    got = wide(backend.on_host(rounded(backend, x)))
    expected = torch.from_numpy(x).bfloat16().float().numpy()
    np.testing.assert_array_equal(got, expected)


@pytest.mark.parametrize("size", [1, 257, 200_003])
@pytest.mark.parametrize("count", [1, 2, 3])
def test_a_mean_of_bfloat16_has_the_bits_of_a_mean_of_the_same_numbers_in_float32(
    backend: Backend, size: int, count: int
) -> None:
    narrow = [rounded(backend, normal(size, seed)) for seed in range(count)]
    same = [backend.empty(size) for _ in narrow]
    for few, many in zip(narrow, same, strict=True):
        backend.to_device(wide(backend.on_host(few)), many)
    shares = [0.5, 0.3, 0.2][:count] if count > 1 else [1.0]
    out, expected = backend.empty(size), backend.empty(size)
    backend.mean(narrow, shares, out)
    backend.mean(same, shares, expected)
    assert np.array_equal(backend.on_host(out), backend.on_host(expected))
    if count == 1:
        assert np.array_equal(backend.on_host(out), backend.on_host(same[0]))


@pytest.mark.parametrize("size", [0, 1, 257, 8 * 1024, 200_003])
def test_the_sum_of_squares_is_of_the_rounded_numbers(backend: Backend, size: int) -> None:
    x = normal(size, 4)
    narrow = rounded(backend, x)
    exact = float((wide(backend.on_host(narrow)).astype(np.float64) ** 2).sum())
    assert backend.sum_of_squares(narrow) == pytest.approx(exact, rel=1e-6)
    if size > 1:
        unrounded = float((x.astype(np.float64) ** 2).sum())
        assert abs(unrounded - exact) > 1e-6 * exact, "the rounding shows"


@pytest.mark.parametrize("index", [0, 70_000, 199_999])
@pytest.mark.parametrize("poison", [math.nan, math.inf, -math.inf, float(np.finfo("f4").max)])
def test_nan_inf_and_what_rounds_to_inf_are_found_wherever_they_are(
    backend: Backend, poison: float, index: int
) -> None:
    x = normal(200_000, 5)
    x[index] = poison
    assert not math.isfinite(backend.sum_of_squares(rounded(backend, x)))


def test_the_largest_numbers_are_finite_though_their_squares_are_not(backend: Backend) -> None:
    x = np.full(100_000, LARGEST, np.float32)
    expected = x.size * LARGEST**2
    assert backend.sum_of_squares(rounded(backend, x)) == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("kernels", ["numpy", "compiled"])
def test_nothing_is_allocated_for_a_vector_that_is_rounded_averaged_and_summed(
    kernels: str,
) -> None:
    backend = make_backend("cpu", "float32", kernels=kernels)
    x, mean = normal(400_000, 6), backend.empty(400_000)
    narrow = rounded(backend, x)

    def all_of_it() -> None:
        backend.round_bf16(x, narrow)
        backend.mean([narrow, narrow], [0.5, 0.5], mean)
        backend.sum_of_squares(narrow)

    all_of_it()
    tracemalloc.start()
    try:
        all_of_it()
        _, peak_bytes = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak_bytes < 32 * 1024


def test_compiled_kernels_refuse_vectors_of_another_type() -> None:
    backend = make_backend("cpu", "float32", kernels="compiled")
    x, narrow = np.zeros(4, np.float32), np.zeros(4, BF16)
    with pytest.raises(ValueError, match=r"type 'H' with 4 elements .* got type 'H' with 6 bytes"):
        backend.round_bf16(x, narrow[:3])
    with pytest.raises(ValueError, match=r"expected .* type 'f' .* got type 'H'"):
        backend.round_bf16(narrow, narrow)
    with pytest.raises(ValueError, match=r"expected .* type 'H' .* got type 'f'"):
        backend.mean([narrow, x], [0.5, 0.5], x)
