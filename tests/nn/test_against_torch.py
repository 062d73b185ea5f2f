"""The whole model equals PyTorch's: logits, losses and every gradient, for every option."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from models import Built, build, torch_logits

from psdp.task import Step

torch = pytest.importorskip("torch", reason="PyTorch, the reference, is not installed")

# Largest difference allowed, relative to the largest element of the array compared.
TOLERANCE = {"float64": 1e-11, "float32": 2e-5}


def assert_close(got: np.ndarray, expected: np.ndarray, dtype: str, what: str) -> None:
    error = np.abs(got - expected).max() / np.abs(expected).max()
    assert error < TOLERANCE[dtype], f"{what}: relative error {error:.1e} in {dtype}"


def assert_equals_torch(built: Built, dtype: str, smoothing: float = 0.0) -> None:
    parameters = {
        name: torch.from_numpy(view.copy()).requires_grad_()
        for name, view in built.table.views(built.weights).items()
    }
    logits = torch_logits(built.config, parameters, torch.from_numpy(built.tokens))
    losses = torch.nn.functional.cross_entropy(
        logits.transpose(1, 2), torch.from_numpy(built.targets), reduction="none"
    )
    smoothed = torch.nn.functional.cross_entropy(
        logits.transpose(1, 2), torch.from_numpy(built.targets), label_smoothing=smoothing
    )
    smoothed.backward()

    assert_close(built.model.logits(built.tokens), logits.detach().numpy(), dtype, "logits")
    got, correct = built.model.evaluate(built.tokens, built.targets)
    assert_close(got, losses.detach().numpy(), dtype, "losses")
    assert np.array_equal(correct, logits.argmax(-1).numpy() == built.targets)
    loss = built.step(built.tokens, built.targets)
    assert loss == pytest.approx(float(smoothed.detach()), rel=TOLERANCE[dtype])
    for name, gradient in built.gradients().items():
        expected = parameters[name].grad.numpy()
        assert np.abs(expected).max() > 0 or name.endswith("qkv.bias")
        assert_close(gradient, expected, dtype, name)


KERNELS = {"float64 numpy", "float32 numpy", "float32 compiled"}


@pytest.mark.parametrize("kind", sorted(KERNELS))
@pytest.mark.parametrize("position", ["learned", "sinusoidal", "rotary"])
@pytest.mark.parametrize("activation", ["gelu", "relu"])
@pytest.mark.parametrize("bias", [True, False])
def test_every_option(bias: bool, activation: str, position: str, kind: str) -> None:
    dtype, kernels = kind.split()
    built = build(bias=bias, activation=activation, position=position, dtype=dtype, kernels=kernels)
    assert_equals_torch(built, dtype)


@pytest.mark.parametrize("kind", sorted(KERNELS))
@pytest.mark.parametrize("changes", [{}, {"logit_softcap": 2.0}], ids=str)
def test_the_mean_is_of_the_targets_that_count(changes: dict[str, Any], kind: str) -> None:
    dtype, kernels = kind.split()
    built = build(dtype=dtype, kernels=kernels, **changes)
    counted = np.random.default_rng(2).random(built.targets.shape) < 0.4
    parameters = {
        name: torch.from_numpy(view.copy()).requires_grad_()
        for name, view in built.table.views(built.weights).items()
    }
    logits = torch_logits(built.config, parameters, torch.from_numpy(built.tokens))
    targets = torch.from_numpy(np.where(counted, built.targets, -100))
    loss = torch.nn.functional.cross_entropy(logits.transpose(1, 2), targets, ignore_index=-100)
    loss.backward()
    built.model.forward_backward(built.tokens, built.targets, Step(), counted)
    assert built.model.total_loss() == pytest.approx(float(loss.detach()), rel=TOLERANCE[dtype])
    for name, gradient in built.gradients().items():
        assert_close(gradient, parameters[name].grad.numpy(), dtype, name)


@pytest.mark.parametrize("kind", sorted(KERNELS))
@pytest.mark.parametrize("changes", [{}, {"logit_softcap": 2.0}], ids=str)
def test_labels_are_smoothed_in_training_alone(changes: dict[str, Any], kind: str) -> None:
    dtype, kernels = kind.split()
    built = build(dtype=dtype, kernels=kernels, **changes)
    built.model.head.smoothing = 0.2
    assert_equals_torch(built, dtype, smoothing=0.2)


@pytest.mark.parametrize(
    "changes",
    [
        {"activation": "gelu-erf", "mlp_width": 31},
        {"activation": "relu2", "norm_eps": 0.1},
        {"activation": "swiglu"},
        {"activation": "geglu", "mlp_width": 5, "bias": False},
        {"norm": "rmsnorm"},
        {"qk_norm": True, "position": "rotary"},
        {"qk_norm": True, "norm_eps": 0.1, "length": 5, "room": 4},
        {"position": "rotary", "rope_theta": 50.0, "rotary_dims": 4},
        {"position": "rotary", "rotary_dims": 2, "qk_norm": True, "length": 3},
        {"parallel_residual": True},
        {"n_head": 6, "n_kv_head": 2, "position": "rotary"},
        {"n_kv_head": 1, "qk_norm": True, "length": 5, "room": 4},
        {"logit_softcap": 2.0},
        {"logit_softcap": 2.0, "tied_head": False, "vocab": 700, "batch": 21, "block_size": 10},
        {"value_embeddings": True},
        {"value_embeddings": True, "n_kv_head": 1, "batch": 2, "room": 4},
        {"tied_head": False, "position": "rotary"},
    ],
    ids=str,
)
@pytest.mark.parametrize("kind", sorted(KERNELS))
def test_every_setting_of_a_decoder(changes: dict[str, Any], kind: str) -> None:
    dtype, kernels = kind.split()
    assert_equals_torch(build(**changes, dtype=dtype, kernels=kernels), dtype)


@pytest.mark.parametrize(
    "shape",
    [
        {"batch": 1},
        {"batch": 1, "length": 1},
        {"batch": 2, "length": 5, "room": 4},
        {"n_head": 1},
        {"n_head": 6, "n_layer": 1},
        {"n_embd": 15, "n_head": 3, "block_size": 7, "vocab": 13, "batch": 5},
    ],
    ids=str,
)
@pytest.mark.parametrize("kind", sorted(KERNELS))
def test_odd_and_partial_shapes(shape: dict[str, int], kind: str) -> None:
    dtype, kernels = kind.split()
    assert_equals_torch(build(**shape, dtype=dtype, kernels=kernels), dtype)


@pytest.mark.parametrize("length", [300, 257, 128, 65])
@pytest.mark.parametrize("kind", sorted(KERNELS))
def test_sequences_longer_than_a_block_of_queries(length: int, kind: str) -> None:
    dtype, kernels = kind.split()
    shape = {"n_layer": 1, "block_size": 300, "batch": 3, "length": length, "n_embd": 24}
    assert_equals_torch(build(**shape, position="rotary", dtype=dtype, kernels=kernels), dtype)


def test_a_vocabulary_whose_logits_are_taken_in_several_chunks() -> None:
    assert_equals_torch(build(n_layer=1, vocab=700, batch=21, block_size=10), "float64")


def test_a_full_size_model_in_float32() -> None:
    built = build(n_layer=2, n_head=4, n_embd=128, block_size=64, vocab=65, dtype="float32")
    assert_equals_torch(built, "float32")
