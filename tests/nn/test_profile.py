"""A model that measures itself: what it counts is exact, and what it computes is unchanged."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from models import TINY, VOCAB

import psdp.nn
from psdp.backend import make_backend
from psdp.backend.costs import COSTS
from psdp.config import ModelConfig
from psdp.nn.layer import Layer
from psdp.nn.profile import profiled
from psdp.nn.transformer import Transformer, parameter_table
from psdp.records.profile import OTHER, Profile
from psdp.task import Step

BATCH, LENGTH, WIDTH, LAYERS = 3, TINY.block_size, TINY.n_embd, TINY.n_layer
TOKENS = BATCH * LENGTH
# Matrices of a block, (C, C) each: qkv three, out one, up four, down four.
LINEAR_FLOPS = 3 * 2 * TOKENS * 12 * WIDTH**2 * LAYERS
HEAD_FLOPS = 3 * 2 * TOKENS * VOCAB * WIDTH
# Two products forward and five backward, over pairs of a query and a key not after it.
ATTENTION_FLOPS = 7 * 2 * WIDTH * BATCH * LENGTH * (LENGTH + 1) // 2 * LAYERS


def ticking() -> Callable[[], float]:
    """Return a clock that goes on by a second at each look."""
    now_s = 0.0

    def now() -> float:
        nonlocal now_s
        now_s += 1
        return now_s

    return now


def train(
    config: ModelConfig, kernels: str, profile: Profile | None, dtype: str = "float32"
) -> tuple[float, Any]:
    """Return the loss and the gradient of one step, which is one span of the profile."""
    table = parameter_table(config, VOCAB)
    weights = table.initial(1, dtype)
    gradient = np.zeros_like(weights)
    rng = np.random.default_rng(5)
    tokens, targets = rng.integers(0, VOCAB, (2, BATCH, LENGTH))

    def build(backend: Any) -> Transformer:
        return Transformer(config, VOCAB, BATCH, backend, weights, gradient)

    backend = make_backend("cpu", dtype, kernels=kernels)
    if profile is None:
        model = build(backend)
        model.forward_backward(tokens, targets, Step(1.0, rng))
        return model.total_loss(), gradient
    model = profiled(build, backend, profile)
    with profile.span(OTHER):
        model.forward_backward(tokens, targets, Step(1.0, rng))
    return model.total_loss(), gradient


def all_layers(above: type[Layer] = Layer) -> set[type[Layer]]:
    """Return all layers that are declared."""
    found = set(above.__subclasses__())
    return found.union(*map(all_layers, found))


@pytest.mark.parametrize("kernels", ["auto", "numpy"])
def test_floating_point_operations_are_counted_exactly(kernels: str) -> None:
    profile = Profile(ticking())
    train(TINY, kernels, profile)
    assert {kind: cost.flops for kind, cost in profile.costs.items() if cost.flops} == {
        "linear": LINEAR_FLOPS,
        "attention": ATTENTION_FLOPS,
        "head and loss": HEAD_FLOPS,
    }


@pytest.mark.parametrize("kernels", ["auto", "numpy"])
def test_a_gate_is_a_third_matrix_and_shared_heads_are_fewer_columns(kernels: str) -> None:
    profile, config = Profile(ticking()), replace(TINY, n_kv_head=1)
    config = replace(config, activation="swiglu", mlp_width=20, norm="rmsnorm", qk_norm=True)
    train(config, kernels, profile)
    columns = WIDTH + 2 * WIDTH // 2 + WIDTH + 3 * 20
    assert {kind: cost.flops for kind, cost in profile.costs.items() if cost.flops} == {
        "linear": 3 * 2 * TOKENS * WIDTH * columns * LAYERS,
        "attention": ATTENTION_FLOPS,
        "head and loss": HEAD_FLOPS,
    }


@pytest.mark.parametrize("kernels", ["auto", "numpy"])
@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_a_model_that_measures_itself_computes_the_same(kernels: str, dropout: float) -> None:
    config = replace(TINY, dropout=dropout)
    loss, gradient = train(config, kernels, None)
    measured_loss, measured_gradient = train(config, kernels, Profile())
    assert measured_loss == loss
    np.testing.assert_array_equal(measured_gradient, gradient)


def test_times_by_kind_add_up_to_the_step() -> None:
    looks = 0

    def now() -> float:
        nonlocal looks
        looks += 1
        return float(looks)

    kinds: set[str] = set()
    for config in (
        replace(TINY, position="rotary", dropout=0.2),
        replace(TINY, norm="rmsnorm", qk_norm=True),
    ):
        looks, profile = 0, Profile(now)
        train(config, "auto", profile)
        # The first look opens the step, the last one closes it.
        assert sum(cost.seconds for cost in profile.costs.values()) == looks - 1
        kinds |= set(profile.costs)
    assert kinds == {layer.kind for layer in all_layers()}


def test_only_what_happens_in_a_span_is_noted() -> None:
    profile = Profile()
    weights = parameter_table(TINY, VOCAB).initial(1, "float32")

    def build(backend: Any) -> Transformer:
        return Transformer(TINY, VOCAB, BATCH, backend, weights, None)

    model = profiled(build, make_backend("cpu", "float32"), profile)
    model.evaluate(*np.zeros((2, BATCH, LENGTH), int))
    assert profile.costs == {}


def test_the_bytes_of_a_product_are_those_of_its_three_matrices() -> None:
    a, b, out = np.zeros((5, 2), np.float32), np.zeros((2, 3), np.float32), np.zeros((5, 3))
    assert COSTS["matmul"](a, b, out) == (60.0, 40 + 24 + 120)
    bias = np.zeros(3, np.float32)
    assert COSTS["affine"](a, b, bias, out) == (60.0, 40 + 24 + 12 + 120)
    assert COSTS["affine"](a, b, None, out) == (60.0, 40 + 24 + 120)


def test_of_a_table_only_the_rows_that_are_taken_or_added_to_count() -> None:
    table, ids, rows = np.zeros((1000, 4)), np.zeros(3, np.int64), np.zeros((3, 4))
    assert COSTS["embed"](table, ids, 1.0, None, 3, rows) == (0.0, 24 + 2 * 96)
    assert COSTS["scatter_add"](ids, rows, 1.0, table) == (0.0, 24 + 2 * 96)


def test_numbers_beside_the_arrays_have_no_bytes() -> None:
    logits, targets, losses = np.zeros((2, 5)), np.zeros(2, np.int64), np.zeros(2)
    assert COSTS["cross_entropy"](logits, targets, 0.5, losses) == (0.0, 80 + 16 + 16)


def test_what_has_a_forward_pass_is_a_layer_with_a_kind() -> None:
    found = set()
    for path in Path(psdp.nn.__file__).parent.rglob("[a-z]*.py"):
        name = ".".join(path.relative_to(Path(psdp.nn.__file__).parent).with_suffix("").parts)
        module = import_module(f"psdp.nn.{name}")
        for member in vars(module).values():
            here = inspect.isclass(member) and member.__module__ == module.__name__
            if here and (hasattr(member, "forward") or hasattr(member, "forward_backward")):
                found.add(member)
    assert found == all_layers()


def test_a_layer_without_a_kind_cannot_be_declared() -> None:
    with pytest.raises(TypeError, match="kind"):
        type("Unkind", (Layer,), {})
