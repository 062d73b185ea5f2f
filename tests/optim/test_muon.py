"""Matrices follow Muon, as PyTorch has it; all else AdamW, wherever servers divide them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from processors import needs_avx512, needs_bf16

from psdp.backend import make_backend
from psdp.backend.cpu.compiled import CompiledBackend
from psdp.optim import muon
from psdp.optim.adam import AdamSettings, AdamW
from psdp.optim.muon import Muon, MuonSettings
from psdp.params import Array, ParamSpec, ParamTable

TABLE = ParamTable(
    [
        ParamSpec("tokens", (40, 7), decay=True, embedding=True),
        ParamSpec("up", (7, 20), decay=True),
        ParamSpec("qkv", (7, 21), decay=True, maps=(7, 7, 7)),
        ParamSpec("gain", (7,)),
        ParamSpec("down", (20, 7), decay=True),
        ParamSpec("undecayed", (7, 7)),
        ParamSpec("bias", (7,)),
    ]
)
SETTINGS = MuonSettings(weight_decay=0.1, beta1=0.9)


def steps(count: int, seed: int = 3) -> tuple[Array, list[Array]]:
    rng = np.random.default_rng(seed)
    weights, *gradients = (rng.standard_normal(TABLE.size) for _ in range(count + 1))
    return weights, gradients


def made(settings: AdamSettings, count: int = 1, number: int = 0) -> Muon:
    part = TABLE.parts(count, Muon.needs_whole)[number]
    return Muon(settings, part, make_backend("cpu", "float64"))


@pytest.mark.parametrize("servers", [1, 2, 3])
def test_servers_together_do_what_one_does_bit_for_bit(servers: int) -> None:
    settings = MuonSettings(weight_decay=0.1, l1=0.01, beta1=0.9)
    whole, gradients = steps(4)
    apart = whole.copy()
    for vector, count in ((whole, 1), (apart, servers)):
        for number in range(count):
            rule = made(settings, count, number)
            span = slice(rule.part.span.start, rule.part.span.stop)
            for gradient in gradients:
                rule.step(vector[span], gradient[span], 0.1, scale=0.5, clip_value=0.9)
    assert np.array_equal(whole, apart)


# Elsewhere the products of large ones are BLAS's, whose bits depend on its threads.
@pytest.mark.parametrize(
    "narrow", [1000, pytest.param(50, marks=needs_avx512), pytest.param(1, marks=needs_avx512)]
)
def test_threads_share_matrices_or_products_out_and_make_the_bits_of_one(
    narrow: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(muon, "NARROW", narrow)
    table = ParamTable(
        [
            ParamSpec("small", (40, 80), decay=True),
            ParamSpec("qkv", (200, 600), decay=True, maps=(200, 200, 200)),
            ParamSpec("gain", (200,)),
            ParamSpec("down", (300, 200), decay=True),
            ParamSpec("undecayed", (200, 40)),
        ]
    )
    first, *gradients = np.random.default_rng(3).standard_normal((4, table.size)).astype("f4")
    ends = []
    for threads in (1, 2, 3):
        weights, backend = first.copy(), CompiledBackend(threads)
        rule = Muon(MuonSettings(weight_decay=0.1, l1=0.01), table.parts(1)[0], backend)
        for gradient in gradients:
            rule.step(weights, gradient, 0.1, scale=0.5, clip_value=0.9)
        ends.append((weights.tobytes(), rule.state()["exp_avg"].tobytes()))
    assert ends[0] == ends[1] == ends[2]
    assert np.isfinite(weights).all()


def test_all_but_the_matrices_is_updated_as_by_adamw_with_a_rate_of_its_own() -> None:
    weights, gradients = steps(3)
    others = weights.copy()
    (part,) = TABLE.parts(1)
    rule = made(MuonSettings(weight_decay=0.1, beta1=0.9, adamw_lr_ratio=0.25))
    other = AdamW(AdamSettings(weight_decay=0.1, beta1=0.9), part, make_backend("cpu", "float64"))
    for gradient in gradients:
        rule.step(weights, gradient, 0.4, scale=0.5)
        other.step(others, gradient, 0.1, scale=0.5)
    mine, theirs = TABLE.views(weights), TABLE.views(others)
    for spec in TABLE.specs:
        assert np.array_equal(mine[spec.name], theirs[spec.name]) != spec.matrix


def test_step_by_step_matrices_are_what_pytorch_makes_of_them(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It iterates in bfloat16, which is kept from it here."""
    monkeypatch.setattr(torch.Tensor, "bfloat16", lambda tensor: tensor)
    weights, gradients = steps(6)
    rule = made(SETTINGS)
    theirs = {name: torch.tensor(value) for name, value in parts_of(weights).items()}
    parameters = {name: torch.nn.Parameter(value) for name, value in theirs.items()}
    groups: list[dict[str, Any]] = [
        {"params": [value], "weight_decay": 0.0 if name == "undecayed" else 0.1}
        for name, value in parameters.items()
    ]
    peer = torch.optim.Muon(groups, lr=0.1, adjust_lr_fn="match_rms_adamw")
    for number, gradient in enumerate(gradients):
        rate = 0.1 / (1 + number)
        rule.step(weights, gradient, rate)
        for group in peer.param_groups:
            group["lr"] = rate
        for name, value in parts_of(gradient).items():
            parameters[name].grad = torch.tensor(value)
        peer.step()
        for name, value in parts_of(weights).items():
            expected = parameters[name].detach().numpy()
            np.testing.assert_allclose(value, expected, rtol=1e-10, atol=1e-12, err_msg=name)


def parts_of(flat: Array) -> dict[str, Array]:
    """Return the matrix of each linear map: three lie in one parameter."""
    views = TABLE.views(flat)
    qkv = views.pop("qkv")
    matrices = {spec.name: views[spec.name] for spec in TABLE.specs if spec.name in views}
    alone = {spec.name for spec in TABLE.specs if spec.matrix}
    own = {name: value for name, value in matrices.items() if name in alone}
    return own | {f"qkv{n}": qkv[:, 7 * n : 7 * n + 7] for n in range(3)}


@pytest.mark.parametrize("shape", [(64, 64), (48, 192), (192, 48)])
@pytest.mark.parametrize(
    ("bf16", "limit"), [(False, 3e-5), pytest.param(True, 0.4, marks=needs_bf16)]
)
def test_rounding_moves_a_matrix_little_whose_singular_values_lie_far_apart(
    shape: tuple[int, int], bf16: bool, limit: float
) -> None:
    rng, side = np.random.default_rng(5), min(shape)
    left, right = (np.linalg.qr(rng.standard_normal((size, size)))[0] for size in shape)
    gradient = (left[:, :side] * 10.0 ** np.linspace(0, -8, side)) @ right[:side]
    (part,) = ParamTable([ParamSpec("map", shape)]).parts(1, Muon.needs_whole)
    weights, rate = np.zeros(part.size, "f4"), 1 / (0.2 * max(shape) ** 0.5)
    rule = Muon(SETTINGS, part, CompiledBackend(bf16=bf16))
    rule.step(weights, gradient.astype("f4").reshape(-1), rate)
    expected = iterated(gradient)
    error = np.linalg.norm(expected + weights.reshape(shape))
    assert error < limit * np.linalg.norm(expected)


def iterated(matrix: Array) -> Array:
    """Return a matrix after five iterations as they are published, each on the matrix itself."""
    x = matrix / np.linalg.norm(matrix)
    for _ in range(5):
        gram = x @ x.T
        x = 3.4445 * x + (-4.7750 * gram + 2.0315 * gram @ gram) @ x
    return x


@pytest.mark.parametrize("name", ["up", "down", "undecayed"])
def test_a_matrix_moves_by_one_whose_singular_values_are_about_1(name: str) -> None:
    weights, (gradient,) = steps(1)
    before = TABLE.views(weights.copy())[name]
    made(MuonSettings()).step(weights, gradient, 0.1)
    moved = (before - TABLE.views(weights)[name]) / (0.1 * 0.2 * max(before.shape) ** 0.5)
    values = np.linalg.svd(moved, compute_uv=False)
    assert values.min() > 0.6
    assert values.max() < 1.25


def test_what_a_matrix_follows_is_clipped_and_penalised_before() -> None:
    weights, (gradient,) = steps(1)
    other = weights.copy()
    views = TABLE.views(weights.copy())
    clipped = np.clip(0.5 * gradient, -0.4, 0.4)
    for spec in TABLE.specs:
        if spec.decay:
            TABLE.views(clipped)[spec.name][...] += 0.3 * np.sign(views[spec.name])
    made(MuonSettings(l1=0.3)).step(weights, gradient, 0.1, scale=0.5, clip_value=0.4)
    made(MuonSettings()).step(other, clipped, 0.1)
    np.testing.assert_allclose(weights, other, rtol=1e-12)
