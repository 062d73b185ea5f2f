"""A model's settings as ``config.json`` says them, both ways."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from psdp.config import ModelConfig, flag_of, head_size, kv_heads, mlp_width, rotary_dims
from psdp.errors import CheckpointError, ConfigError
from psdp.huggingface.architectures import ARCHITECTURES, Architecture

_SAME = {"swish": "silu", "gelu_pytorch_tanh": "gelu_new", "gelu_fast": "gelu_new"}
"""Other names of the same function."""


def shape_of(model: ModelConfig) -> dict[str, Any]:
    """Return the settings of a model's shape by their names, those filled in that follow from
    others, and None where keys and values have a head for each of the queries, or all channels are
    turned."""
    shape = asdict(model)
    heads, turned = kv_heads(model), rotary_dims(model)
    shape["mlp_width"] = mlp_width(model)
    shape["n_kv_head"] = None if heads == model.n_head else heads
    shape["rotary_dims"] = None if turned == head_size(model) else turned
    return shape


def architecture_of(model: ModelConfig) -> Architecture:
    """Return the architecture that a model is one of.

    Raises:
        ConfigError: there is none; the text says which settings are why.
    """
    shape = shape_of(model)
    nearest = min(ARCHITECTURES.values(), key=lambda row: len(row.obstacles(shape)))
    obstacles = nearest.obstacles(shape)
    if obstacles:
        raise ConfigError(
            f"Hugging Face has no counterpart of this model: {nearest.name}, the nearest, is not "
            f"one of {', '.join(obstacles)}"
        )
    return nearest


def config_json(
    row: Architecture, model: ModelConfig, vocab_size: int, dtype: str
) -> dict[str, Any]:
    """Return what ``config.json`` says of a model."""
    shape = shape_of(model) | {"n_kv_head": kv_heads(model)}
    told = {key: shape[name] for key, name in row.keys.items()}
    told |= {
        key: row.activations[model.activation]
        for key, name in row.keys.items()
        if name == "activation"
    }
    if "head_dim" in row.defaults:
        told["head_dim"] = head_size(model)
    turned = rotary_dims(model)
    if turned is not None:
        share = turned / head_size(model)
        rope = {"rope_type": "default", "rope_theta": model.rope_theta}
        told["rope_parameters"] = rope | {"partial_rotary_factor": share}
        # What these were called before version 5 of transformers.
        told |= {"rope_theta": model.rope_theta}
        if row.rotary_share != 1:
            told |= {"rotary_pct": share, "rotary_emb_base": model.rope_theta}
    return {
        "architectures": [row.name],
        "model_type": row.kind,
        "vocab_size": vocab_size,
        "dtype": dtype,
        **told,
        **row.constants,
        **_no_dropout(row),
    }


def _no_dropout(row: Architecture) -> dict[str, float]:
    """Return the keys that say that nothing is dropped, where that has another default."""
    names = ("resid_pdrop", "embd_pdrop", "attn_pdrop") if row.kind == "gpt2" else ()
    return dict.fromkeys(names, 0.0)


def settings_of(told: Any, where: str) -> tuple[Architecture, dict[str, Any]]:
    """Return of what architecture a model is, and its settings, from what ``config.json`` says.

    Args:
        where: it lies, for errors.

    Raises:
        CheckpointError: it is of another architecture, or is one that psdp has not.
    """
    kind = told.get("model_type") if isinstance(told, dict) else None
    row = ARCHITECTURES.get(str(kind))
    if row is None:
        known = ", ".join(f"{row.kind} ({row.name})" for row in ARCHITECTURES.values())
        raise CheckpointError(f"{where}: model_type {kind!r} is none that is known here: {known}")
    for key, value in row.constants.items():
        if told.get(key, value) != value:
            raise CheckpointError(f"{where}: {key} {told[key]!r} is not known here, only {value!r}")
    settings: dict[str, Any] = {**row.only}
    for key, name in row.keys.items():
        value = told.get(key, row.defaults.get(key, _MISSING))
        if value is _MISSING:
            raise CheckpointError(f"{where} does not say {key}")
        if name == "activation":
            value = _activation(row, value, f"{where}: {key}")
        if name in settings and settings[name] != value:
            raise CheckpointError(
                f"{where}: {key} {value!r} differs from its other key for {flag_of(name)}, and "
                "both are one setting here"
            )
        settings[name] = value
    if settings["position"] == "rotary":
        settings |= _rotary(row, told, settings, where)
    if settings["n_kv_head"] == settings["n_head"]:
        settings["n_kv_head"] = None
    width, heads, size = (
        settings["n_embd"],
        settings["n_head"],
        told.get("head_dim", row.defaults.get("head_dim")),
    )
    if size is not None and size * heads != width:
        raise CheckpointError(
            f"{where}: head_dim {size} is not known here for {heads} heads and a width of {width}"
        )
    return row, settings


_MISSING = object()


def _activation(row: Architecture, value: Any, where: str) -> str:
    """Return psdp's name of an activation."""
    own = {_SAME.get(theirs, theirs): ours for ours, theirs in row.activations.items()}
    found = own.get(_SAME.get(value, value))
    if found is None:
        known = ", ".join(row.activations.values())
        raise CheckpointError(f"{where} {value!r} is not known here, only {known}")
    return found


def _rotary(
    row: Architecture, told: Mapping[str, Any], settings: Mapping[str, Any], where: str
) -> dict[str, Any]:
    """Return the settings of rotary positions, whatever version of transformers wrote them."""
    rope = told.get("rope_parameters") or told.get("rope_scaling") or {}
    kind = rope.get("rope_type", rope.get("type", "default"))
    if kind != "default":
        raise CheckpointError(f"{where}: rope_type {kind!r} is not known here, only 'default'")
    named = {**told, **rope}
    theta = named.get("rope_theta", named.get("rotary_emb_base", 10000.0))
    share = named.get("partial_rotary_factor", named.get("rotary_pct", row.rotary_share))
    turned = int(settings["n_embd"] // settings["n_head"] * share)
    if share != 1 and "rotary_dims" in row.only:
        raise CheckpointError(f"{where}: partial_rotary_factor {share} is not known here, only 1")
    return {"rope_theta": float(theta), "rotary_dims": None if share == 1 else turned}
