"""The decoder equals GPT-2, Llama, Qwen3 and GPT-NeoX as transformers has them, with the same
weights: logits, every gradient, and what is generated."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import pytest
from models import VOCAB, Built, build

from psdp.config import Config, ModelConfig, head_size, kv_heads, mlp_width, rotary_dims
from psdp.nn.decoder import Decoder
from psdp.params import Array

torch = pytest.importorskip("torch", reason="PyTorch, which transformers needs, is not installed")
pytest.importorskip("transformers", reason="transformers, the reference, is not installed")

SHAPE = {"n_layer": 2, "n_head": 4, "n_embd": 32, "block_size": 16}
# Largest difference allowed, relative to the largest element of the array compared.
TOLERANCE = {"float64": 1e-10, "float32": 1e-5}

Named = dict[str, Array]
"""Arrays by the names of their parameters."""


def gpt2(config: ModelConfig, named: Named) -> Named:
    """Return psdp's arrays as GPT2LMHeadModel names and shapes them."""
    found = {
        "transformer.wte.weight": named["embedding.tokens"],
        "transformer.wpe.weight": named["embedding.positions"],
        **norm("transformer.ln_f", "norm", named),
    }
    for layer in range(config.n_layer):
        there, here = f"transformer.h.{layer}", f"block.{layer}"
        found |= norm(f"{there}.ln_1", f"{here}.norm1", named)
        found |= norm(f"{there}.ln_2", f"{here}.norm2", named)
        for theirs, ours in (
            *(("attn.c_attn", "attention.qkv"), ("attn.c_proj", "attention.out")),
            *(("mlp.c_fc", "mlp.up"), ("mlp.c_proj", "mlp.down")),
        ):
            for part in ("weight", "bias"):
                found[f"{there}.{theirs}.{part}"] = named[f"{here}.{ours}.{part}"]
    return found


def llama(config: ModelConfig, named: Named) -> Named:
    """Return psdp's arrays as LlamaForCausalLM, and Qwen3ForCausalLM, name and shape them."""
    found = {
        "model.embed_tokens.weight": named["embedding.tokens"],
        **norm("model.norm", "norm", named),
    }
    if not config.tied_head:
        found["lm_head.weight"] = named["head.tokens"]
    kv_width, wide = kv_heads(config) * head_size(config), mlp_width(config)
    for layer in range(config.n_layer):
        there, here = f"model.layers.{layer}", f"block.{layer}"
        found |= norm(f"{there}.input_layernorm", f"{here}.norm1", named)
        found |= norm(f"{there}.post_attention_layernorm", f"{here}.norm2", named)
        qkv = np.split(named[f"{here}.attention.qkv.weight"].T, [config.n_embd, -kv_width])
        gate, up = np.split(named[f"{here}.mlp.up.weight"].T, [wide])
        found |= dict(
            zip((f"{there}.self_attn.{of}_proj.weight" for of in "qkv"), qkv, strict=True)
        )
        found[f"{there}.self_attn.o_proj.weight"] = named[f"{here}.attention.out.weight"].T
        found[f"{there}.mlp.gate_proj.weight"] = gate
        found[f"{there}.mlp.up_proj.weight"] = up
        found[f"{there}.mlp.down_proj.weight"] = named[f"{here}.mlp.down.weight"].T
        if config.qk_norm:
            found |= norm(f"{there}.self_attn.q_norm", f"{here}.attention.query_norm", named)
            found |= norm(f"{there}.self_attn.k_norm", f"{here}.attention.key_norm", named)
    return found


def gpt_neox(config: ModelConfig, named: Named) -> Named:
    """Return psdp's arrays as GPTNeoXForCausalLM names and shapes them."""
    found = {
        "gpt_neox.embed_in.weight": named["embedding.tokens"],
        "lm_head.weight": named["head.tokens"],
        **norm("gpt_neox.final_layer_norm", "norm", named),
    }
    for layer in range(config.n_layer):
        there, here = f"gpt_neox.layers.{layer}", f"block.{layer}"
        found |= norm(f"{there}.input_layernorm", f"{here}.norm1", named)
        found |= norm(f"{there}.post_attention_layernorm", f"{here}.norm2", named)
        for theirs, ours in (
            *(("attention.query_key_value", "attention.qkv"), ("attention.dense", "attention.out")),
            *(("mlp.dense_h_to_4h", "mlp.up"), ("mlp.dense_4h_to_h", "mlp.down")),
        ):
            for part in ("weight", "bias"):
                array = named[f"{here}.{ours}.{part}"].T
                if ours == "attention.qkv":  # there each head has its queries, keys and values
                    by_head = array.reshape(3, config.n_head, head_size(config), -1)
                    array = by_head.swapaxes(0, 1).reshape(array.shape)
                found[f"{there}.{theirs}.{part}"] = array
    return found


def norm(theirs: str, ours: str, named: Named) -> Named:
    """Return the arrays of a norm."""
    found = {f"{theirs}.weight": named[f"{ours}.gain"]}
    if f"{ours}.bias" in named:
        found[f"{theirs}.bias"] = named[f"{ours}.bias"]
    return found


class Reference(NamedTuple):
    """A model of transformers."""

    module: str
    model: str
    mapped: Callable[[ModelConfig, Named], Named]
    settings: Callable[[ModelConfig], dict[str, Any]]


def gpt2_settings(config: ModelConfig) -> dict[str, Any]:
    return {
        "n_layer": config.n_layer,
        "n_head": config.n_head,
        "n_embd": config.n_embd,
        "n_positions": config.block_size,
        "n_inner": mlp_width(config),
        "layer_norm_epsilon": config.norm_eps,
        **dict.fromkeys(("resid_pdrop", "embd_pdrop", "attn_pdrop"), 0.0),
    }


def llama_settings(config: ModelConfig) -> dict[str, Any]:
    return {
        "num_hidden_layers": config.n_layer,
        "num_attention_heads": config.n_head,
        "num_key_value_heads": kv_heads(config),
        "head_dim": head_size(config),
        "hidden_size": config.n_embd,
        "intermediate_size": mlp_width(config),
        "max_position_embeddings": config.block_size,
        "rms_norm_eps": config.norm_eps,
        "rope_parameters": {"rope_type": "default", "rope_theta": config.rope_theta},
        "tie_word_embeddings": config.tied_head,
    }


def gpt_neox_settings(config: ModelConfig) -> dict[str, Any]:
    turned = rotary_dims(config)
    assert turned is not None
    return {
        "num_hidden_layers": config.n_layer,
        "num_attention_heads": config.n_head,
        "hidden_size": config.n_embd,
        "intermediate_size": mlp_width(config),
        "max_position_embeddings": config.block_size,
        "layer_norm_eps": config.norm_eps,
        "use_parallel_residual": config.parallel_residual,
        "rope_parameters": {
            "rope_type": "default",
            "rope_theta": config.rope_theta,
            "partial_rotary_factor": turned / head_size(config),
        },
    }


GPT2 = Reference("gpt2", "GPT2", gpt2, gpt2_settings)
LLAMA = Reference("llama", "Llama", llama, llama_settings)
QWEN3 = Reference("qwen3", "Qwen3", llama, llama_settings)
GPT_NEOX = Reference("gpt_neox", "GPTNeoX", gpt_neox, gpt_neox_settings)

NEOX = {"position": "rotary", "activation": "gelu-erf", "tied_head": False}
CASES: dict[str, tuple[Reference, dict[str, Any]]] = {
    "gpt2": (GPT2, {"preset": "gpt2"}),
    "gpt2, narrow": (GPT2, {"preset": "gpt2", "mlp_width": 24, "norm_eps": 1e-3}),
    "llama": (LLAMA, {"preset": "llama"}),
    "llama 3": (
        LLAMA,
        {"preset": "llama", "n_kv_head": 2, "rope_theta": 5e5, "tied_head": True, "norm_eps": 1e-6},
    ),
    "qwen3": (QWEN3, {"preset": "llama", "qk_norm": True, "n_kv_head": 1}),
    "gpt-neox": (GPT_NEOX, NEOX | {"parallel_residual": True, "rotary_dims": 2}),
    "gpt-neox, in turn": (GPT_NEOX, NEOX | {"rope_theta": 100.0}),
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


@pytest.fixture(params=CASES)
def pair(
    request: pytest.FixtureRequest, kind: str, monkeypatch: pytest.MonkeyPatch
) -> tuple[Built, Any, Reference]:
    """Return one of psdp's models, and the other's with the same weights."""
    reference, settings = CASES[request.param]
    dtype, kernels = kind.split()
    module = importlib.import_module(
        f"transformers.models.{reference.module}.modeling_{reference.module}"
    )
    if dtype == "float64":
        monkeypatch.setattr(module, "torch", Wide())
        monkeypatch.setattr(torch.Tensor, "float", torch.Tensor.double)
    config = Config.from_flat(SHAPE | settings).resolved().model
    built = build(config, batch=2, dtype=dtype, kernels=kernels)
    theirs = getattr(module, f"{reference.model}Config")(
        vocab_size=VOCAB,
        attn_implementation="eager",
        bos_token_id=None,
        eos_token_id=None,
        **reference.settings(config),
    )
    of = "LMHeadModel" if reference is GPT2 else "ForCausalLM"
    model = getattr(module, reference.model + of)(theirs).to(getattr(torch, dtype))
    weights = reference.mapped(config, built.table.views(built.weights))
    parameters = dict(model.named_parameters())
    assert weights.keys() == parameters.keys()
    with torch.no_grad():
        for name, parameter in parameters.items():
            parameter.copy_(torch.from_numpy(np.ascontiguousarray(weights[name])))
    return built, model, reference


def assert_close(got: Array, expected: Any, dtype: str, what: str) -> None:
    wanted = expected.detach().numpy()
    error = np.abs(got - wanted).max() / np.abs(wanted).max()
    assert error < TOLERANCE[dtype], f"{what}: relative error {error:.1e} in {dtype}"


def test_logits_and_every_gradient(pair: tuple[Built, Any, Reference], kind: str) -> None:
    built, model, reference = pair
    dtype = kind.split()[0]
    logits = model(torch.from_numpy(built.tokens)).logits
    loss = torch.nn.functional.cross_entropy(
        logits.flatten(0, 1), torch.from_numpy(built.targets).flatten()
    )
    loss.backward()
    assert_close(built.model.logits(built.tokens), logits, dtype, "logits")
    expected = float(loss.detach())
    assert built.step(built.tokens, built.targets) == pytest.approx(expected, rel=TOLERANCE[dtype])
    gradients = reference.mapped(built.config, built.gradients())
    for name, parameter in model.named_parameters():
        if not name.endswith("key.bias"):
            assert_close(gradients[name], parameter.grad, dtype, name)


def test_what_is_generated(pair: tuple[Built, Any, Reference]) -> None:
    built, model, _ = pair
    decoder = Decoder(built.config, VOCAB, built.model.backend, built.weights)
    text = [int(token) for token in built.tokens[0, :4]]
    logits = decoder.feed(np.array(text))
    while len(text) < built.config.block_size:
        with torch.no_grad():
            expected = int(model(torch.tensor([text])).logits[0, -1].argmax())
        assert int(logits.argmax()) == expected
        text.append(expected)
        logits = decoder.feed(np.array([expected]))
