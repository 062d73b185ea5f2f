"""The Transformer on a GPU backend computes what it computes on a CPU; the GPU is emulated."""

from __future__ import annotations

import math
import weakref
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import numpy as np
import pytest
from emulated.device import EmulatedDevice
from models import TINY, VOCAB, Built, build

from psdp.backend.gpu.backend import GpuBackend
from psdp.config import ModelConfig
from psdp.nn.decoder import Decoder
from psdp.nn.transformer import Transformer
from psdp.params import Array
from psdp.task import Step

WIDE = replace(TINY, n_embd=32)  # heads that tensor cores take


def twin(built: Built, backend: GpuBackend) -> tuple[Transformer, Array]:
    """Return the same model on a GPU, and its gradient."""
    model, _, gradient = twin_and_weights(built, backend)
    return model, gradient


def twin_and_weights(built: Built, backend: GpuBackend) -> tuple[Transformer, Array, Array]:
    """Return the same model on a GPU, its weights and its gradient."""
    weights, gradient = backend.zeros(built.table.size), backend.zeros(built.table.size)
    backend.to_device(built.weights, weights)
    batch = built.tokens.shape[0]
    model = Transformer(built.config, built.model.vocab_size, batch, backend, weights, gradient)
    return model, weights, gradient


def gpu(folder: Path, dtype: str, precision: str = "float32") -> GpuBackend:
    return GpuBackend(EmulatedDevice(folder), dtype, precision)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"position": "rotary", "bias": False},
        {"position": "sinusoidal", "activation": "relu"},
        {"n_layer": 1, "n_head": 1, "n_embd": 6, "block_size": 1},
        {"activation": "gelu-erf", "tied_head": False, "norm_eps": 0.1},
        {"activation": "relu2", "mlp_width": 7},
        {"activation": "swiglu", "bias": False, "norm": "rmsnorm"},
        {"activation": "geglu", "qk_norm": True, "position": "rotary"},
        {"n_kv_head": 1, "value_embeddings": True, "logit_softcap": 2.0},
        {"parallel_residual": True, "position": "rotary", "rotary_dims": 4, "rope_theta": 100.0},
    ],
    ids=str,
)
def test_loss_and_gradient_are_those_of_the_cpu(
    kernel_folder: Path, changes: dict[str, Any]
) -> None:
    built = build(dtype="float64", **changes)
    model, gradient = twin(built, gpu(kernel_folder, "float64"))
    loss = built.step(built.tokens, built.targets, scale=0.5)
    # As it comes, captured, and done again.
    for step in range(1, 4):
        model.forward_backward(built.tokens, built.targets, Step(scale=0.5))
        assert model.total_loss() == pytest.approx(step * loss, rel=1e-13)
        np.testing.assert_allclose(gradient, step * built.gradient, rtol=1e-9, atol=1e-12)
    losses, right = built.model.evaluate(built.tokens, built.targets)
    gpu_losses, gpu_right = model.evaluate(built.tokens, built.targets)
    np.testing.assert_allclose(gpu_losses, losses, rtol=1e-12)
    assert np.array_equal(gpu_right, right)
    np.testing.assert_allclose(
        model.logits(built.tokens), built.model.logits(built.tokens), rtol=1e-10, atol=1e-12
    )


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"norm": "rmsnorm", "activation": "swiglu", "position": "rotary", "qk_norm": True},
        {"n_kv_head": 1, "value_embeddings": True, "logit_softcap": 5.0, "activation": "relu2"},
        {"position": "rotary", "rotary_dims": 4, "parallel_residual": True, "tied_head": False},
    ],
    ids=str,
)
@pytest.mark.parametrize(
    ("precision", "loss_limit", "limit"), [("float32", 1e-5, 1e-3), ("bf16", 0.02, 0.03)]
)
def test_float32_and_bfloat16_are_close_to_float64(
    kernel_folder: Path, precision: str, loss_limit: float, limit: float, changes: dict[str, Any]
) -> None:
    built = build(WIDE, dtype="float64", **changes)
    model, gradient = twin(built, gpu(kernel_folder, "float32", precision))
    loss = built.step(built.tokens, built.targets)
    model.forward_backward(built.tokens, built.targets, Step())
    assert abs(model.total_loss() - loss) < loss_limit
    assert np.linalg.norm(gradient - built.gradient) < limit * np.linalg.norm(built.gradient)


def test_one_captured_step_is_for_however_many_targets_count(
    kernel_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    built, device = build(dtype="float64"), EmulatedDevice(kernel_folder)
    model, gradient = twin(built, GpuBackend(device, "float64", "float32"))
    capture = Mock(wraps=device.capture)
    monkeypatch.setattr(device, "capture", capture)
    for step in range(1, 5):
        counted = np.random.default_rng(step).random(built.targets.shape) < step / 5
        built.gradient[...] = gradient[...] = 0
        for either in (built.model, model):
            either.loss[...] = 0
            either.forward_backward(built.tokens, built.targets, Step(scale=1 / step), counted)
        assert model.total_loss() == pytest.approx(built.model.total_loss(), rel=1e-13)
        np.testing.assert_allclose(gradient, built.gradient, rtol=1e-9, atol=1e-12)
    capture.assert_called_once()


def test_a_captured_step_reads_new_tokens_weights_and_masks(kernel_folder: Path) -> None:
    built = build(dtype="float64", dropout=0.3)
    backend = gpu(kernel_folder, "float64")
    model, weights, gradient = twin_and_weights(built, backend)
    for step in range(4):
        fresh, same_weights, fresh_gradient = twin_and_weights(built, gpu(kernel_folder, "float64"))
        same_weights[...] = weights
        tokens = np.random.default_rng(step).integers(0, VOCAB, built.tokens.shape)
        for either, vector in ((model, gradient), (fresh, fresh_gradient)):
            vector[...] = 0
            either.loss[...] = 0
            either.forward_backward(
                tokens, built.targets, Step(rng=np.random.default_rng([7, step]))
            )
        weights *= 0.9
        assert model.total_loss() == fresh.total_loss()
        assert np.array_equal(gradient, fresh_gradient)
    kernels = backend.device.launches  # type: ignore[attr-defined]
    steps = kernels.count("embed")
    assert steps == 2, "the first step, and the captured one"


def test_dropout_gradients_match_the_masks_of_the_forward_pass(kernel_folder: Path) -> None:
    built = build(dtype="float64", dropout=0.4, position="rotary", length=6)
    model, weights, gradient = twin_and_weights(built, gpu(kernel_folder, "float64"))

    def loss() -> float:
        model.loss[...] = 0
        model.forward_backward(built.tokens, built.targets, Step(rng=np.random.default_rng(3)))
        return model.total_loss()

    loss()
    slope, index_of_largest = gradient.copy(), int(np.abs(gradient).argmax())
    for index in (index_of_largest, *np.random.default_rng(0).integers(0, gradient.size, 12)):
        kept = weights[index]
        weights[index] = kept + 1e-5
        above = loss()
        weights[index] = kept - 1e-5
        below = loss()
        weights[index] = kept
        assert (above - below) / 2e-5 == pytest.approx(slope[index], rel=1e-5, abs=1e-8)


@pytest.mark.parametrize("precision", ["float32", "bf16"])
def test_nan_in_the_weights_shows_in_the_gradient(kernel_folder: Path, precision: str) -> None:
    built = build(WIDE, dtype="float32")
    backend = gpu(kernel_folder, "float32", precision)
    model, weights, gradient = twin_and_weights(built, backend)
    weights[3] = math.nan
    model.forward_backward(built.tokens, built.targets, Step())
    assert not math.isfinite(backend.sum_of_squares(gradient))


def test_sum_of_squares_is_exact_or_says_that_it_is_not_finite(kernel_folder: Path) -> None:
    device = EmulatedDevice(kernel_folder)
    backend = GpuBackend(device, "float32")
    vector = device.holding(np.full(1_000_001, 0.1, np.float32))
    exact = vector.size * float(vector[0]) ** 2
    assert backend.sum_of_squares(vector) == pytest.approx(exact, rel=1e-12)
    vector[77] = 3e38
    assert backend.sum_of_squares(vector) == pytest.approx(float(vector[77]) ** 2)
    for poison in (math.nan, math.inf):
        vector[-1] = poison
        assert not math.isfinite(backend.sum_of_squares(vector))
    wide = GpuBackend(device, "float64")
    assert wide.sum_of_squares(device.holding(np.full(3, 1e200))) == 2.0**1000


def test_the_decoder_continues_on_a_gpu(kernel_folder: Path) -> None:
    config = ModelConfig(n_layer=2, n_head=2, n_embd=12, block_size=8, position="rotary")
    built = build(config, dtype="float64", batch=1)
    backend = gpu(kernel_folder, "float64")
    weights = backend.empty(built.weights.size)
    backend.to_device(built.weights, weights)
    on_gpu = Decoder(config, VOCAB, backend, weights)
    on_cpu = Decoder(config, VOCAB, built.model.backend, built.weights)
    for tokens in (built.tokens[0, :3], built.tokens[0, 3:4], built.tokens[0, 4:8]):
        np.testing.assert_allclose(on_gpu.feed(tokens[None]), on_cpu.feed(tokens[None]), rtol=1e-10)


def test_two_models_on_one_backend_do_not_take_each_others_graphs(kernel_folder: Path) -> None:
    backend = gpu(kernel_folder, "float64")
    for seed in (1, 2):
        built = build(dtype="float64")
        built.weights *= seed
        model, gradient = twin(built, backend)
        built.step(built.tokens, built.targets)
        for _ in range(3):
            gradient[...] = 0
            model.forward_backward(built.tokens, built.targets, Step())
            np.testing.assert_allclose(gradient, built.gradient, rtol=1e-9, atol=1e-12)


def test_scratch_memory_that_a_captured_step_uses_stays(kernel_folder: Path) -> None:
    backend = gpu(kernel_folder, "float64")
    used = weakref.ref(backend.scratch(0, 10).base)
    backend.scratch(0, 1000)
    assert used() is not None
