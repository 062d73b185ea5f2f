"""The decoder equals GPT-2, Llama, Qwen3 and GPT-NeoX as transformers has them, with the same
weights: logits, every gradient, and what is generated."""

from __future__ import annotations

import importlib
from typing import Any, NamedTuple

import numpy as np
import pytest
from models import VOCAB, Built, build

from psdp.config import Config
from psdp.huggingface import Architecture, architecture_of, config_json, counterparts
from psdp.nn.decoder import Decoder
from psdp.params import Array

torch = pytest.importorskip("torch", reason="PyTorch, which transformers needs, is not installed")
pytest.importorskip("transformers", reason="transformers, the reference, is not installed")

SHAPE = {"n_layer": 2, "n_head": 4, "n_embd": 32, "block_size": 16}
# Largest difference allowed, relative to the largest element of the array compared.
TOLERANCE = {"float64": 1e-10, "float32": 1e-5}

NEOX = {"position": "rotary", "activation": "gelu-erf", "tied_head": False}
CASES: dict[str, dict[str, Any]] = {
    "gpt2": {"preset": "gpt2"},
    "gpt2, narrow": {"preset": "gpt2", "mlp_width": 24, "norm_eps": 1e-3, "tied_head": False},
    "llama": {"preset": "llama"},
    "llama 3": {
        "preset": "llama",
        "n_kv_head": 2,
        "rope_theta": 5e5,
        "tied_head": True,
        "norm_eps": 1e-6,
        "bias": True,
    },
    "qwen3": {"preset": "llama", "qk_norm": True, "n_kv_head": 1},
    "gpt-neox": NEOX | {"parallel_residual": True, "rotary_dims": 2},
    "gpt-neox, in turn": NEOX | {"rope_theta": 100.0},
}


class Wide:
    """PyTorch for a module that computes parts of a model in float32, whatever its weights are: in
    float64 here."""

    float32 = float = torch.float64

    def __getattr__(self, name: str) -> Any:
        return getattr(torch, name)


@pytest.fixture(params=["float64 numpy", "float32 numpy", "float32 compiled"])
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


class Pair(NamedTuple):
    """One of psdp's models, and the other's with the same weights."""

    ours: Built
    theirs: Any
    row: Architecture

    def mapped(self, named: dict[str, Array]) -> dict[str, Array]:
        """Return psdp's arrays as the other names and shapes them."""
        ties = counterparts(self.row, self.ours.config, self.ours.table.specs)
        return {k: v for tie in ties for k, v in tie.theirs_of(named[tie.spec.name]).items()}


@pytest.fixture(params=CASES)
def pair(request: pytest.FixtureRequest, kind: str, monkeypatch: pytest.MonkeyPatch) -> Pair:
    dtype, kernels = kind.split()
    config = Config.from_flat(SHAPE | CASES[request.param]).resolved().model
    row = architecture_of(config)
    module = importlib.import_module(f"transformers.models.{row.kind}.modeling_{row.kind}")
    if dtype == "float64":
        monkeypatch.setattr(module, "torch", Wide())
        monkeypatch.setattr(torch.Tensor, "float", torch.Tensor.double)
    built = build(config, batch=2, dtype=dtype, kernels=kernels)
    told = config_json(row, config, VOCAB, dtype)
    their_class = getattr(module, row.name)
    theirs = their_class.config_class(
        attn_implementation="eager", bos_token_id=None, eos_token_id=None, **told
    )
    pair = Pair(built, their_class(theirs).to(getattr(torch, dtype)), row)
    weights = pair.mapped(built.table.views(built.weights))
    parameters = dict(pair.theirs.named_parameters())
    assert weights.keys() == parameters.keys()
    with torch.no_grad():
        for name, parameter in parameters.items():
            parameter.copy_(torch.from_numpy(np.ascontiguousarray(weights[name])))
    return pair


def assert_close(got: Array, expected: Any, dtype: str, what: str) -> None:
    wanted = expected.detach().numpy()
    error = np.abs(got - wanted).max() / np.abs(wanted).max()
    assert error < TOLERANCE[dtype], f"{what}: relative error {error:.1e} in {dtype}"


def test_logits_and_every_gradient(pair: Pair, kind: str) -> None:
    built, model, _ = pair
    dtype = kind.split()[0]
    logits = model(torch.from_numpy(built.tokens)).logits
    loss = torch.nn.functional.cross_entropy(
        logits.flatten(0, 1), torch.from_numpy(built.targets).flatten()
    )
    loss.backward()
    assert_close(built.model.logits(built.tokens), logits, dtype, "logits")
    expected = float(loss.detach())
    assert built.step(built.tokens, built.targets) == pytest.approx(expected, rel=TOLERANCE[dtype])
    gradients = pair.mapped(built.gradients())
    for name, parameter in model.named_parameters():
        if not name.endswith("key.bias"):
            assert_close(gradients[name], parameter.grad, dtype, name)


def test_what_is_generated(pair: Pair) -> None:
    built, model, _ = pair
    decoder = Decoder(built.config, VOCAB, built.model.backend, built.weights)
    text = [int(token) for token in built.tokens[0, :4]]
    logits = decoder.feed(np.array([text]))[0]
    while len(text) < built.config.block_size:
        with torch.no_grad():
            expected = int(model(torch.tensor([text])).logits[0, -1].argmax())
        assert int(logits.argmax()) == expected
        text.append(expected)
        logits = decoder.feed(np.array([[expected]]))[0]
