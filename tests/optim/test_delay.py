"""Delay compensation against its formula."""

from __future__ import annotations

import numpy as np
import pytest

from psdp.backend import make_backend
from psdp.optim import DelayCompensation
from psdp.optim.blocks import block_size
from psdp.optim.delay import DECAY, EPS, STRENGTH


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("size", [1, 7, block_size("float32") + 3])
def test_it_is_the_formula_of_the_paper(size: int, dtype: str) -> None:
    rng, rule = np.random.default_rng(2), DelayCompensation(size, make_backend("cpu", dtype))
    mean = np.zeros(size)
    for _ in range(4):
        g, w, then = (rng.standard_normal(size).astype(dtype) for _ in range(3))
        mean = DECAY * mean + (1 - DECAY) * g.astype("f8") ** 2
        moved = w.astype("f8") - then
        expected = g + STRENGTH / np.sqrt(mean + EPS) * g.astype("f8") ** 2 * moved
        kept = w.copy(), then.copy()
        rule.correct(g, w, then)
        tolerance = 1e-6 if dtype == "float32" else 1e-14
        np.testing.assert_allclose(g, expected, rtol=10 * tolerance, atol=tolerance)
        np.testing.assert_array_equal((w, then), kept)


def test_weights_that_have_not_moved_leave_the_gradient_as_it_is() -> None:
    g, w = np.arange(5.0), np.ones(5)
    DelayCompensation(5, make_backend("cpu", "float64")).correct(g, w, w.copy())
    np.testing.assert_array_equal(g, np.arange(5.0))
