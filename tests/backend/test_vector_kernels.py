"""What every backend promises of dropout, clipping, Adam and means, against plain formulas."""

from __future__ import annotations

import math

import numpy as np
import pytest
from emulated.bench import Bench, random_shapes
from hypothesis import given
from hypothesis import strategies as st

from psdp.backend import AdamStep, Backend, Scalar


@pytest.mark.parametrize("p", [0.1, 0.75])
def test_dropout_keeps_its_share_and_the_same_mask_within_a_step(
    backend: Backend, p: float
) -> None:
    bench, shape = Bench(backend, 3), (200, 101)
    masks = []
    for seed in (4, 4, 5):
        rng = np.random.default_rng(seed)
        backend.seed(rng)
        room = masks[0][0] if masks else backend.new_mask(math.prod(shape))
        mask = backend.draw_mask(rng, p, room, math.prod(shape))
        (branch, wide), (stream, before) = bench.branch(*shape), bench.real(*shape)
        ones, kept = backend.empty(*shape), backend.empty(*shape)
        backend.to_device(np.ones(shape), ones)
        backend.drop(ones, mask, kept)
        factors = bench.wide(kept)
        masks.append((room, factors))
        bench.close(kept, np.where(factors == 0, 0, 1 / (1 - p)))
        backend.drop(stream, mask, stream)
        bench.close(stream, before * factors)
        backend.add_dropped(branch, mask, stream)
        bench.close(stream, before * factors + wide * factors)
        assert abs((factors == 0).mean() - p) < 5 * math.sqrt(p * (1 - p) / factors.size)
    assert np.array_equal(masks[0][1], masks[1][1])
    assert not np.array_equal(masks[0][1], masks[2][1])


def number(backend: Backend, factor: Scalar) -> float:
    return factor if isinstance(factor, float) else float(backend.on_host(factor)[0])


@pytest.mark.parametrize("poison", [math.nan, math.inf, -math.inf])
def test_what_limits_a_gradient_that_is_not_finite_is_not_a_number(
    backend: Backend, poison: float
) -> None:
    bench = Bench(backend, 0)
    g, wide = bench.real(3000)
    wide[2500] = poison
    backend.to_device(wide, g)
    for limit in (0.0, 1.0):
        assert math.isnan(number(backend, backend.clip_coefficient(g, limit)))


@random_shapes
@given(size=st.sampled_from([1, 3, 255, 257, 5000]), shrink=st.sampled_from([1.0, 0.9]))
def test_adam_and_weighted_means(backend: Backend, size: int, shrink: float) -> None:
    bench = Bench(backend, size)
    (w, wide_w), (g, wide_g), (m, wide_m) = (bench.real(size) for _ in range(3))
    v, wide_v = bench.real(size)
    backend.to_device(np.abs(wide_v), v)
    wide_v = np.abs(wide_v)
    step = AdamStep(0.5, 0.9, 0.99, 0.01, 1e-8, shrink)
    backend.adam(w, g, m, v, step)
    scaled = 0.5 * wide_g
    wide_m = 0.9 * wide_m + 0.1 * scaled
    wide_v = 0.99 * wide_v + 0.01 * scaled**2
    bench.close(m, wide_m)
    bench.close(v, wide_v)
    bench.close(w, shrink * wide_w - 0.01 * wide_m / (np.sqrt(wide_v) + 1e-8))
    for limit in (0.0, 0.25, 1e9):
        expected = min(1.0, limit / (np.linalg.norm(wide_g) + 1e-6)) if limit else 1.0
        scale = backend.clip_coefficient(g, limit)
        assert number(backend, scale) == pytest.approx(expected, rel=1e-6)
        backend.adam(w, g, m, v, step._replace(scale=scale))
        wide_m = 0.9 * wide_m + 0.1 * expected * wide_g
        bench.close(m, wide_m)
    vectors = [bench.real(size) for _ in range(3)]
    shares, out = [0.2, 0.3, 0.5], vectors[0][0]
    expected = sum(s * wide for s, (_, wide) in zip(shares, vectors, strict=True))
    backend.mean([vector for vector, _ in vectors], shares, out)
    bench.close(out, expected)
