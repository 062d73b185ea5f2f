"""Rules that see parameters: matrices are updated as such, all else as by a rule that does not."""

from __future__ import annotations

import numpy as np
import pytest
from optim.orthogonal import Orthogonal

from psdp.backend import make_backend
from psdp.optim.adam import AdamSettings, AdamW
from psdp.params import Array, Init, ParamSpec, ParamTable

ZEROS = Init("zeros")
TABLE = ParamTable(
    [
        ParamSpec("tokens", (40, 7), ZEROS, decay=True, embedding=True),
        ParamSpec("up", (7, 20), ZEROS, decay=True),
        ParamSpec("gain", (7,), ZEROS, decay=False),
        ParamSpec("down", (20, 7), ZEROS, decay=True),
        ParamSpec("undecayed", (7, 7), ZEROS, decay=False),
        ParamSpec("bias", (7,), ZEROS, decay=False),
    ]
)
SETTINGS = AdamSettings(weight_decay=0.1, l1=0.01, beta1=0.9)


def steps(count: int, seed: int = 3) -> tuple[Array, list[Array]]:
    rng = np.random.default_rng(seed)
    weights, *gradients = (rng.standard_normal(TABLE.size) for _ in range(count + 1))
    return weights, gradients


@pytest.mark.parametrize("servers", [1, 2, 3])
def test_servers_together_do_what_one_does_bit_for_bit(servers: int) -> None:
    whole, gradients = steps(4)
    apart = whole.copy()
    backend = make_backend("cpu", "float64")
    needs_whole = Orthogonal.needs_whole
    for vector, count in ((whole, 1), (apart, servers)):
        for part in TABLE.parts(count, needs_whole):
            span = slice(part.span.start, part.span.stop)
            rule = Orthogonal(SETTINGS, part, backend)
            for gradient in gradients:
                rule.step(vector[span], gradient[span], 0.1, scale=0.5, clip_value=0.9)
    assert np.array_equal(whole, apart)


def test_all_but_the_matrices_are_updated_as_without_them() -> None:
    weights, gradients = steps(3)
    others = weights.copy()
    backend = make_backend("cpu", "float64")
    (part,) = TABLE.parts(1)
    rules = Orthogonal(SETTINGS, part, backend), AdamW(SETTINGS, part, backend)
    for rule, vector in zip(rules, (weights, others), strict=True):
        for gradient in gradients:
            rule.step(vector, gradient, 0.1, scale=0.5)
    mine, theirs = TABLE.views(weights), TABLE.views(others)
    for spec in TABLE.specs:
        assert np.array_equal(mine[spec.name], theirs[spec.name]) != spec.matrix


def test_a_matrix_moves_by_what_its_gradient_is_made_of_once_clipped_and_penalised() -> None:
    weights, (gradient,) = steps(1)
    before = TABLE.views(weights.copy())
    (part,) = TABLE.parts(1, Orthogonal.needs_whole)
    rule = Orthogonal(AdamSettings(l1=0.3, beta1=0.9), part, make_backend("cpu", "float64"))
    rule.step(weights, gradient, 0.1, scale=0.5, clip_value=0.4)
    for name in ("up", "down", "undecayed"):
        w = before[name]
        g = np.clip(0.5 * TABLE.views(gradient)[name], -0.4, 0.4)
        g = g + 0.3 * np.sign(w) * (name != "undecayed")
        left, _, right = np.linalg.svd(g, full_matrices=False)
        np.testing.assert_allclose(TABLE.views(weights)[name], w - 0.1 * (left @ right), atol=1e-12)
