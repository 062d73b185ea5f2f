"""What the model promises besides the right numbers: tables, sums, errors, and no allocation."""

from __future__ import annotations

import math
import tracemalloc
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from models import TINY, VOCAB, build

from psdp.backend import make_backend
from psdp.config import ModelConfig
from psdp.errors import DataError
from psdp.nn.transformer import Transformer, parameter_table


def test_table_of_gpt2_small_has_its_124_million_parameters() -> None:
    table = parameter_table(ModelConfig(12, 12, 768, 1024), 50257)
    assert table.size == 124_439_808


def test_table_leaves_out_what_the_options_leave_out() -> None:
    def names(**changes: object) -> set[str]:
        return set(build(**changes).table.offsets)

    assert "embedding.positions" in names()
    assert "embedding.positions" not in names(position="rotary") | names(position="sinusoidal")
    assert not [name for name in names(bias=False) if name.endswith("bias")]


def test_weight_decay_acts_on_matrices_only() -> None:
    for spec in build().table.specs:
        assert spec.decay == (len(spec.shape) >= 2), spec.name


def test_normal_initial_weights_are_gpt2s() -> None:
    config = ModelConfig(n_layer=8, n_head=4, n_embd=64, block_size=64, init="normal")
    table = parameter_table(config, 500)
    for name, view in table.views(table.initial(0, "float64")).items():
        if name.endswith("bias"):
            assert not view.any(), name
        elif name.endswith("gain"):
            assert (view == 1).all(), name
        else:
            ends_a_branch = name.endswith(("attention.out.weight", "mlp.down.weight"))
            std = 0.02 / math.sqrt(16) if ends_a_branch else 0.02
            assert view.std() == pytest.approx(std, rel=0.05), name
            assert abs(view.mean()) < 0.05 * std, name


def test_xavier_initial_weights_fill_their_interval() -> None:
    config = ModelConfig(n_embd=64, n_head=4, init="xavier")
    table = parameter_table(config, 500)
    for name, view in table.views(table.initial(0, "float64")).items():
        if view.ndim == 2:
            half_width = math.sqrt(6 / sum(view.shape))
            assert 0.99 * half_width < np.abs(view).max() <= half_width, name
            assert view.std() == pytest.approx(half_width / math.sqrt(3), rel=0.05), name


@pytest.mark.parametrize("init", ["normal", "xavier"])
def test_branches_that_end_in_zeros_add_nothing_and_the_rest_starts_as_ever(init: str) -> None:
    plain, zeroed = (
        parameter_table(replace(TINY, init=init, zero_init=zero), VOCAB) for zero in (False, True)
    )
    as_ever = plain.views(plain.initial(0, "float64"))
    for name, view in zeroed.views(zeroed.initial(0, "float64")).items():
        if name.endswith(("attention.out.weight", "mlp.down.weight")):
            assert not view.any(), name
        else:
            assert np.array_equal(view, as_ever[name]), name


def test_linear_maps_that_share_a_matrix_are_told_apart() -> None:
    config = replace(TINY, n_head=4, n_kv_head=2, activation="swiglu", mlp_width=10)
    maps = {spec.name: spec.maps for spec in parameter_table(config, VOCAB).specs if spec.maps}
    assert maps["block.0.attention.qkv.weight"] == (12, 6, 6)
    assert maps["block.0.mlp.up.weight"] == (10, 10)
    assert len(maps) == 2 * TINY.n_layer


def test_a_head_of_its_own_is_no_matrix_of_a_linear_map() -> None:
    table = parameter_table(replace(TINY, tied_head=False), VOCAB)
    (head,) = (spec for spec in table.specs if spec.name.startswith("head"))
    assert (head.shape, head.decay, head.matrix) == ((VOCAB, TINY.n_embd), True, False)
    assert table.size == parameter_table(TINY, VOCAB).size + VOCAB * TINY.n_embd


def test_fresh_model_of_normal_weights_knows_nothing() -> None:
    table = parameter_table(replace(TINY, init="normal"), VOCAB)
    weights = table.initial(0, "float64")
    model = Transformer(TINY, VOCAB, 2, make_backend("cpu", "float64"), weights, None)
    tokens = np.arange(16).reshape(2, 8) % VOCAB
    losses, _ = model.evaluate(tokens, tokens[:, ::-1])
    assert losses.mean() == pytest.approx(math.log(VOCAB), rel=0.01)


def test_gradients_add_up() -> None:
    built = build()
    built.step(built.tokens, built.targets)
    once = built.gradient.copy()
    built.step(built.tokens, built.targets, scale=0.5)
    # The second pass has the same bits times a power of two; only the additions round.
    np.testing.assert_allclose(built.gradient, 1.5 * once, rtol=1e-14, atol=1e-16)


def test_halves_of_a_batch_add_up_to_the_whole() -> None:
    built = build(batch=4)
    loss = built.step(built.tokens, built.targets)
    whole = built.gradient.copy()
    built.gradient[...] = 0
    halves = [
        built.step(built.tokens[half], built.targets[half], scale=0.5)
        for half in (slice(2), slice(2, 4))
    ]
    assert sum(halves) == pytest.approx(loss, rel=1e-12)
    np.testing.assert_allclose(built.gradient, whole, rtol=1e-10, atol=1e-13)


def test_a_step_repeats_bit_for_bit() -> None:
    results = []
    for _ in range(2):
        built = build(dtype="float32", dropout=0.1)
        built.step(built.tokens, built.targets, rng=np.random.default_rng(1))
        results.append(built.gradient)
    assert np.array_equal(*results)


def test_writing_the_flat_weights_changes_the_model() -> None:
    built = build()
    before = built.model.logits(built.tokens)
    built.weights *= 0.5
    assert not np.allclose(before, built.model.logits(built.tokens))


def test_evaluation_needs_no_gradient_and_leaves_none() -> None:
    built = build()
    alone = Transformer(built.config, VOCAB, 3, make_backend("cpu", "float64"), built.weights, None)
    for got, expected in zip(
        alone.evaluate(built.tokens, built.targets),
        built.model.evaluate(built.tokens, built.targets),
        strict=True,
    ):
        assert np.array_equal(got, expected)
    assert not built.gradient.any()


def test_the_future_does_not_leak() -> None:
    built = build(block_size=140, batch=1)
    before = built.model.logits(built.tokens)
    for changed in (139, 130, 128, 3):
        tokens = built.tokens.copy()
        tokens[0, changed] = (tokens[0, changed] + 1) % VOCAB
        after = built.model.logits(tokens)
        assert np.array_equal(before[0, :changed], after[0, :changed])
        assert not np.allclose(before[0, changed:], after[0, changed:])


def test_extreme_weights_give_finite_losses() -> None:
    built = build(dtype="float32")
    built.weights *= 300
    assert math.isfinite(built.step(built.tokens, built.targets))
    assert np.isfinite(built.gradient).all()


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.int32, np.uint64])
def test_tokens_may_be_integers_of_any_size(dtype: type) -> None:
    built = build()
    small = built.model.evaluate(built.tokens.astype(dtype), built.targets.astype(dtype))
    assert np.array_equal(small[0], built.model.evaluate(built.tokens, built.targets)[0])


@pytest.mark.parametrize("bad", [-1, VOCAB])
def test_tokens_outside_the_vocabulary_are_refused(bad: int) -> None:
    built = build()
    built.tokens[1, 2] = bad
    with pytest.raises(DataError, match=r"0\.\.10"):
        built.step(built.tokens, built.targets)
    built.tokens[1, 2] = 0
    built.targets[0, 0] = bad
    with pytest.raises(DataError, match=r"0\.\.10"):
        built.model.evaluate(built.tokens, built.targets)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"position": "rotary", "dropout": 0.2},
        {"norm": "rmsnorm", "activation": "swiglu", "n_kv_head": 2, "logit_softcap": 9.0},
        {"parallel_residual": True, "activation": "gelu-erf", "tied_head": False},
        {"qk_norm": True, "value_embeddings": True, "activation": "relu2"},
    ],
    ids=str,
)
def test_steady_state_allocates_nothing(changes: dict[str, object]) -> None:
    built = build(
        n_embd=64, n_head=4, block_size=128, batch=8, vocab=300, dtype="float32", **changes
    )
    rng = np.random.default_rng(0)

    def work() -> None:
        built.step(built.tokens, built.targets, rng=rng)
        built.model.evaluate(built.tokens, built.targets)

    work()
    work()
    tracemalloc.start()
    try:
        for _ in range(3):
            work()
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    smallest_activation = built.tokens.size * built.config.n_embd * 4
    assert peak < smallest_activation / 2, f"{peak} bytes"


@pytest.mark.parametrize(
    "changes",
    [{}, {"bias": False, "position": "rotary"}, {"tied_head": False, "value_embeddings": True}],
    ids=str,
)
def test_each_part_of_the_gradient_is_complete_when_it_is_said_to_be_ready(
    changes: dict[str, Any],
) -> None:
    built = build(**changes)
    early, times = np.zeros_like(built.gradient), np.zeros_like(built.gradient)

    def ready(span: slice) -> None:
        early[span] = built.gradient[span]
        times[span] += 1

    built.step(built.tokens, built.targets, ready=ready)
    assert np.array_equal(times, np.ones_like(times))
    assert np.array_equal(early, built.gradient)
