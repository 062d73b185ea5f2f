"""The table of Hugging Face's architectures that psdp's decoder can be: what settings are called
there, what they cannot be, and what parameters are called."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

from psdp.config import flag_of

Names = Mapping[str, str | tuple[str, ...]]

_PLAIN = {"gelu": "gelu_new", "gelu-erf": "gelu", "relu": "relu", "relu2": "relu2"}
_GATED = {"swiglu": "silu", "geglu": "gelu_pytorch_tanh"}


@dataclass(frozen=True)
class Architecture:
    """One class of model there.

    Attributes:
        name: of the class, as ``config.json`` has it.
        kind: the same in a word, its ``model_type``.
        only: of settings that it has not, what they must be.
        keys: what settings are called in ``config.json``.
        activations: what each is called there.
        constants: what else ``config.json`` says, and may not say otherwise.
        defaults: of keys, where ``config.json`` leaves them out.
        rotary_share: of the channels of a head, that are turned if it is not said.
        layer: what a block is called.
        tensors: what parameters are called, those of a block within it; of several, whose output
            channels lie side by side in one of psdp's, a tuple.
        transposed: whether matrices are (out, in), as PyTorch's linear layers have them.
        by_head: whether each head has its queries, keys and values side by side.
        aliases: other names of tensors, beginnings of them, in files that are older.
    """

    name: str
    kind: str
    only: Mapping[str, Any]
    keys: Mapping[str, str]
    activations: Mapping[str, str]
    layer: str
    tensors: Names
    constants: Mapping[str, Any] = field(default_factory=dict)
    defaults: Mapping[str, Any] = field(default_factory=dict)
    rotary_share: float = 1.0
    transposed: bool = True
    by_head: bool = False
    aliases: Mapping[str, str] = field(default_factory=dict)

    def obstacles(self, shape: Mapping[str, Any]) -> list[str]:
        """Return what of a model's shape it has not, as flags."""
        names = [name for name, value in self.only.items() if shape[name] != value]
        if shape["activation"] not in self.activations:
            names.append("activation")
        return [f"{flag_of(name)} {shape[name]}" for name in names]


_NEVER = {
    "architecture": "decoder",
    "value_embeddings": False,
    "logit_softcap": 0.0,
}
_OF_LLAMA = {
    "num_hidden_layers": "n_layer",
    "num_attention_heads": "n_head",
    "num_key_value_heads": "n_kv_head",
    "hidden_size": "n_embd",
    "intermediate_size": "mlp_width",
    "max_position_embeddings": "block_size",
    "rms_norm_eps": "norm_eps",
    "hidden_act": "activation",
    "tie_word_embeddings": "tied_head",
}
_LLAMA_ONLY = _NEVER | {
    "position": "rotary",
    "norm": "rmsnorm",
    "parallel_residual": False,
    "rotary_dims": None,
}
_LLAMA_TENSORS: Names = {
    "embedding.tokens": "model.embed_tokens",
    "norm": "model.norm",
    "head.tokens": "lm_head",
    "norm1": "input_layernorm",
    "norm2": "post_attention_layernorm",
    "attention.qkv": ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
    "attention.out": "self_attn.o_proj",
    "attention.query_norm": "self_attn.q_norm",
    "attention.key_norm": "self_attn.k_norm",
    "mlp.up": ("mlp.gate_proj", "mlp.up_proj"),
    "mlp.down": "mlp.down_proj",
}
_LLAMA_DEFAULTS = {"num_key_value_heads": None, "tie_word_embeddings": False, "head_dim": None}

_TABLE = (
    Architecture(
        "GPT2LMHeadModel",
        "gpt2",
        only=_NEVER
        | {
            "position": "learned",
            "norm": "layernorm",
            "bias": True,
            "qk_norm": False,
            "parallel_residual": False,
            "n_kv_head": None,
        },
        keys={
            "n_layer": "n_layer",
            "n_head": "n_head",
            "n_embd": "n_embd",
            "n_positions": "block_size",
            "n_inner": "mlp_width",
            "layer_norm_epsilon": "norm_eps",
            "activation_function": "activation",
            "tie_word_embeddings": "tied_head",
        },
        activations=_PLAIN,
        constants={"scale_attn_weights": True, "scale_attn_by_inverse_layer_idx": False},
        defaults={
            "n_inner": None,
            "layer_norm_epsilon": 1e-5,
            "activation_function": "gelu_new",
            "tie_word_embeddings": True,
        },
        layer="transformer.h",
        tensors={
            "embedding.tokens": "transformer.wte",
            "embedding.positions": "transformer.wpe",
            "norm": "transformer.ln_f",
            "head.tokens": "lm_head",
            "norm1": "ln_1",
            "norm2": "ln_2",
            "attention.qkv": "attn.c_attn",
            "attention.out": "attn.c_proj",
            "mlp.up": "mlp.c_fc",
            "mlp.down": "mlp.c_proj",
        },
        transposed=False,
        aliases={"transformer.": ""},
    ),
    Architecture(
        "LlamaForCausalLM",
        "llama",
        only=_LLAMA_ONLY | {"qk_norm": False},
        keys=_OF_LLAMA | {"attention_bias": "bias", "mlp_bias": "bias"},
        activations=_GATED,
        defaults=_LLAMA_DEFAULTS | {"attention_bias": False, "mlp_bias": False},
        layer="model.layers",
        tensors=_LLAMA_TENSORS,
    ),
    Architecture(
        "Qwen3ForCausalLM",
        "qwen3",
        only=_LLAMA_ONLY | {"qk_norm": True, "bias": False},
        keys=_OF_LLAMA,
        activations=_GATED,
        constants={"attention_bias": False, "use_sliding_window": False},
        defaults=_LLAMA_DEFAULTS | {"head_dim": 128},
        layer="model.layers",
        tensors=_LLAMA_TENSORS,
    ),
    Architecture(
        "GPTNeoXForCausalLM",
        "gpt_neox",
        only=_NEVER
        | {
            "position": "rotary",
            "norm": "layernorm",
            "bias": True,
            "qk_norm": False,
            "n_kv_head": None,
        },
        keys={
            "num_hidden_layers": "n_layer",
            "num_attention_heads": "n_head",
            "hidden_size": "n_embd",
            "intermediate_size": "mlp_width",
            "max_position_embeddings": "block_size",
            "layer_norm_eps": "norm_eps",
            "hidden_act": "activation",
            "use_parallel_residual": "parallel_residual",
            "tie_word_embeddings": "tied_head",
        },
        activations=_PLAIN,
        constants={"attention_bias": True},
        defaults={"use_parallel_residual": True, "tie_word_embeddings": False},
        rotary_share=0.25,
        layer="gpt_neox.layers",
        tensors={
            "embedding.tokens": "gpt_neox.embed_in",
            "norm": "gpt_neox.final_layer_norm",
            "head.tokens": "lm_head",
            "norm1": "input_layernorm",
            "norm2": "post_attention_layernorm",
            "attention.qkv": "attention.query_key_value",
            "attention.out": "attention.dense",
            "mlp.up": "mlp.dense_h_to_4h",
            "mlp.down": "mlp.dense_4h_to_h",
        },
        by_head=True,
        aliases={"lm_head.": "embed_out."},
    ),
)

ARCHITECTURES: Mapping[str, Architecture] = MappingProxyType({row.kind: row for row in _TABLE})
"""Each by its ``model_type``."""
