"""What every update rule promises, each checked on all of them, and each against PyTorch's."""

from __future__ import annotations

import tracemalloc
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from psdp.backend import make_backend
from psdp.config import OptimConfig
from psdp.errors import CheckpointError
from psdp.optim import Optimizer, make_optimizer
from psdp.optim.blocks import block_size
from psdp.params import Array, Part

RULES = ("sgd", "momentum", "adagrad", "adam", "adamw")
STATES = {
    "sgd": set(),
    "momentum": {"velocity"},
    "adagrad": {"sum"},
    "adam": {"exp_avg", "exp_avg_sq"},
    "adamw": {"exp_avg", "exp_avg_sq"},
}
DTYPES = ("float32", "float64")
BLOCK = block_size("float32")

every_rule = pytest.mark.parametrize("rule", RULES)
every_dtype = pytest.mark.parametrize("dtype", DTYPES)


def config(rule: str, **changes: Any) -> OptimConfig:
    values: dict[str, Any] = {"weight_decay": 0.1, "l1": 0.01} | changes
    return OptimConfig(optimizer=rule, **{"beta1": 0.9, **values})


def part(size: int, decayed_size: int) -> Part:
    return Part(range(size), decayed_size)


def vectors(size: int, dtype: str, count: int, seed: int = 0) -> list[Array]:
    rng = np.random.default_rng(seed)
    return [rng.standard_normal(size).astype(dtype) for _ in range(count)]


def run(optimizer: Optimizer, weights: Array, gradients: list[Array]) -> None:
    for index, gradient in enumerate(gradients):
        optimizer.step(weights, gradient, 0.01 / (1 + index), scale=0.7, clip_value=0.9)


@every_rule
@every_dtype
def test_weights_are_updated_in_place_and_the_gradient_is_only_read(rule: str, dtype: str) -> None:
    weights, gradient = vectors(100, dtype, 2)
    before, same_gradient = weights.copy(), gradient.copy()
    gradient.flags.writeable = False
    optimizer = make_optimizer(config(rule), part(100, 60), make_backend("cpu", dtype))
    optimizer.step(weights, gradient, 0.01, scale=0.5, clip_value=0.2)
    assert weights.dtype == dtype
    assert not np.any(weights == before)
    assert np.array_equal(gradient, same_gradient)
    assert optimizer.updates == 1
    assert all(vector.dtype == dtype for vector in optimizer.state().values())


@every_rule
@every_dtype
def test_a_step_allocates_no_vector(rule: str, dtype: str) -> None:
    size = 3 * BLOCK + 17
    weights, gradient = vectors(size, dtype, 2)
    optimizer = make_optimizer(config(rule), part(size, size // 2), make_backend("cpu", dtype))
    optimizer.step(weights, gradient, 0.01, scale=0.5, clip_value=0.2)
    tracemalloc.start()
    try:
        optimizer.step(weights, gradient, 0.01, scale=0.5, clip_value=0.2)
        _, peak_bytes = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak_bytes < 16 * 1024, "a block is 128 KiB, so views and scalars alone stay far below"


@every_rule
@every_dtype
def test_a_saved_state_goes_on_bit_for_bit(rule: str, dtype: str) -> None:
    weights, *gradients = vectors(1001, dtype, 7)
    straight = make_optimizer(config(rule), part(1001, 500), make_backend("cpu", dtype))
    run(straight, weights, gradients[:3])
    resumed_weights = weights.copy()
    resumed = make_optimizer(config(rule), part(1001, 500), make_backend("cpu", dtype))
    resumed.load({name: v.copy() for name, v in straight.state().items()}, straight.updates)
    run(straight, weights, gradients[3:])
    run(resumed, resumed_weights, gradients[3:])
    assert np.array_equal(weights, resumed_weights)
    assert straight.updates == resumed.updates == 6
    assert set(resumed.state()) == STATES[rule]
    for name, vector in straight.state().items():
        assert np.array_equal(vector, resumed.state()[name])


@every_rule
def test_the_state_is_live(rule: str) -> None:
    weights, gradient = vectors(10, "float32", 2)
    optimizer = make_optimizer(config(rule), part(10, 10), make_backend("cpu", "float32"))
    state = optimizer.state()
    optimizer.step(weights, gradient, 0.01)
    assert all(np.all(vector != 0) for vector in state.values())


@every_rule
@every_dtype
@settings(max_examples=15, deadline=None)
@given(
    size=st.sampled_from([1, 2, BLOCK - 1, BLOCK, BLOCK + 1, 2 * BLOCK + 3]),
    decayed=st.floats(0, 1),
    cuts=st.lists(st.floats(0, 1), max_size=3),
    seed=st.integers(0, 99),
)
def test_shards_updated_apart_give_the_bits_of_the_whole(
    rule: str, dtype: str, size: int, decayed: float, cuts: list[float], seed: int
) -> None:
    boundary = round(decayed * size)
    whole, *gradients = vectors(size, dtype, 3, seed)
    apart = whole.copy()
    edges = [0, *sorted(round(cut * size) for cut in cuts), size]
    for start, stop in pairwise(edges):
        shard_boundary = min(max(boundary - start, 0), stop - start)
        shard = make_optimizer(
            config(rule), part(stop - start, shard_boundary), make_backend("cpu", dtype)
        )
        run(shard, apart[start:stop], [g[start:stop] for g in gradients])
    alone = make_optimizer(config(rule), part(size, boundary), make_backend("cpu", dtype))
    run(alone, whole, gradients)
    assert np.array_equal(whole, apart)


@every_rule
@pytest.mark.parametrize("decayed_size", [0, 1, 333, BLOCK - 1, BLOCK, BLOCK + 1, BLOCK + 5])
def test_penalties_act_on_the_decayed_part_alone(rule: str, decayed_size: int) -> None:
    size = BLOCK + 5
    weights, gradient = vectors(size, "float64", 2)
    penalised, free = weights.copy(), weights.copy()
    none = config(rule, weight_decay=0.0, l1=0.0)
    for settings_, vector in ((config(rule), penalised), (none, free)):
        optimizer = make_optimizer(
            settings_, part(size, decayed_size), make_backend("cpu", "float64")
        )
        # Twice: the first step of Adam is lr * sign(g), which hides a penalty.
        optimizer.step(vector, gradient, 0.1)
        optimizer.step(vector, gradient[::-1], 0.1)
    assert np.array_equal(penalised[decayed_size:], free[decayed_size:])
    assert np.all(penalised[:decayed_size] != free[:decayed_size])


def torch_optimizer(
    rule: str, settings: OptimConfig, groups: list[dict[str, Any]]
) -> torch.optim.Optimizer:
    betas = (settings.beta1, settings.beta2)
    match rule:
        case "sgd":
            return torch.optim.SGD(groups, lr=1.0)
        case "momentum":
            return torch.optim.SGD(groups, lr=1.0, momentum=settings.momentum)
        case "adagrad":
            return torch.optim.Adagrad(groups, lr=1.0)
        case "adam":
            return torch.optim.Adam(groups, lr=1.0, betas=betas)
        case _:
            return torch.optim.AdamW(groups, lr=1.0, betas=betas)


@every_rule
@every_dtype
@pytest.mark.parametrize("l1", [0.0, 0.03])
@pytest.mark.parametrize("weight_decay", [0.0, 0.2])
def test_twenty_steps_equal_pytorch(rule: str, dtype: str, l1: float, weight_decay: float) -> None:
    """Tolerance: a few rounding errors a step, as fractions of the distance moved."""
    size, decayed_size, clip_value, limit = 400, 250, 0.08, 1.0
    weights, *gradients = vectors(size, dtype, 21)
    setting = config(rule, l1=l1, weight_decay=weight_decay)
    optimizer = make_optimizer(setting, part(size, decayed_size), make_backend("cpu", dtype))

    parts = [weights[:decayed_size], weights[decayed_size:]]
    matrices, gains = (torch.nn.Parameter(torch.tensor(part.copy())) for part in parts)
    reference = torch_optimizer(
        rule,
        setting,
        [
            {"params": [matrices], "weight_decay": weight_decay},
            {"params": [gains], "weight_decay": 0.0},
        ],
    )
    start = weights.copy()
    for index, gradient in enumerate(gradients):
        lr = 0.05 / (1 + index)
        matrices.grad = torch.tensor(gradient[:decayed_size])
        gains.grad = torch.tensor(gradient[decayed_size:])
        norm = torch.nn.utils.clip_grad_norm_([matrices, gains], limit).item()
        torch.nn.utils.clip_grad_value_([matrices, gains], clip_value)
        with torch.no_grad():
            matrices.grad += l1 * matrices.sign()
        for group in reference.param_groups:
            group["lr"] = lr
        reference.step()
        optimizer.step(weights, gradient, lr, scale=limit / (norm + 1e-6), clip_value=clip_value)

    expected = torch.cat([matrices, gains]).detach().numpy()
    moved = float(np.abs(expected - start).max())
    tolerance = {"float32": 1e-5, "float64": 1e-13}[dtype]
    np.testing.assert_allclose(weights, expected, rtol=tolerance, atol=tolerance * moved)


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda s: {}, "expects the state ['exp_avg', 'exp_avg_sq'], got []"),
        (lambda s: s | {"sum": s["exp_avg"]}, "'sum'"),
        (lambda s: s | {"exp_avg": np.zeros(9, "float32")}, "(9,)"),
        (lambda s: s | {"exp_avg": np.zeros((10, 1), "float32")}, "(10, 1)"),
        (lambda s: s | {"exp_avg_sq": np.zeros(10, "float64")}, "float64"),
    ],
)
def test_a_foreign_state_is_refused_and_nothing_changes(damage: Any, words: str) -> None:
    weights, gradient = vectors(10, "float32", 2)
    optimizer = make_optimizer(config("adamw"), part(10, 10), make_backend("cpu", "float32"))
    optimizer.step(weights, gradient, 0.01)
    before = {name: vector.copy() for name, vector in optimizer.state().items()}
    with pytest.raises(CheckpointError) as caught:
        optimizer.load(damage({name: np.ones_like(v) for name, v in before.items()}), 5)
    assert words in str(caught.value)
    assert optimizer.updates == 1
    for name, vector in optimizer.state().items():
        assert np.array_equal(vector, before[name])


@every_rule
def test_an_empty_shard_is_no_special_case(rule: str) -> None:
    empty = np.empty(0, "float32")
    optimizer = make_optimizer(config(rule), part(0, 0), make_backend("cpu", "float32"))
    optimizer.step(empty, empty, 0.01, scale=0.5)
    assert optimizer.updates == 1


def test_the_value_clip_comes_after_the_norm_scale() -> None:
    weights = np.zeros(3)
    gradient = np.array([4.0, -4.0, 0.5])
    optimizer = make_optimizer(config("sgd"), part(3, 0), make_backend("cpu", "float64"))
    optimizer.step(weights, gradient, 1.0, scale=0.5, clip_value=1.0)
    assert weights.tolist() == [-1.0, 1.0, -0.25]
