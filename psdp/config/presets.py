"""Settings of models that are well known by one name."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

_GPT2 = {
    "bias": True,
    "activation": "gelu",
    "position": "learned",
    "init": "normal",
    "zero_init": False,
    "norm": "layernorm",
    "norm_eps": 1e-5,
    "qk_norm": False,
    "parallel_residual": False,
    "value_embeddings": False,
    "tied_head": True,
    "logit_softcap": 0.0,
}
_LLAMA = _GPT2 | {
    "bias": False,
    "activation": "swiglu",
    "position": "rotary",
    "norm": "rmsnorm",
    "tied_head": False,
}
_NANOCHAT = _LLAMA | {
    "activation": "relu2",
    "zero_init": True,
    "norm_eps": 1e-6,
    "qk_norm": True,
    "logit_softcap": 15.0,
}

PRESETS: Mapping[str, Mapping[str, Any]] = MappingProxyType(
    {"gpt2": _GPT2, "llama": _LLAMA, "nanochat": _NANOCHAT}
)
"""What each sets. How large a model is, a preset leaves open."""


def with_preset(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return settings, and those of the preset that they name, if any, where they say nothing."""
    preset = values.get("preset")
    usual = PRESETS.get(preset, {}) if isinstance(preset, str) else {}
    return {**usual, **values}
