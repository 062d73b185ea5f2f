"""Settings of the model. What an architecture has of its own, its row says (psdp.architectures)."""

from __future__ import annotations

from copy import copy
from dataclasses import dataclass, fields, make_dataclass
from typing import TYPE_CHECKING, Any

from psdp.architectures import ACTIVATIONS, ARCHITECTURES, GATED, NORMS
from psdp.config.presets import PRESETS
from psdp.fields import setting

GATED_MULTIPLE = 32


@dataclass(frozen=True)
class ShapeConfig:
    """Shape of the model."""

    n_layer: int = setting(4, "Transformer blocks", low=1)
    n_head: int = setting(4, "attention heads; must divide --n-embd", low=1)
    n_embd: int = setting(128, "width of the residual stream", low=1)
    block_size: int = setting(64, "tokens a sequence", low=1)
    dropout: float = setting(0.0, "probability of dropping an activation", low=0, below=1)
    preset: str | None = setting(
        None,
        "defaults of the settings below, as a well-known model has them",
        choices=tuple(PRESETS),
    )
    bias: bool = setting(True, "biases in linear layers and layer norms")
    n_kv_head: int | None = setting(
        None, "heads of keys and values; must divide --n-head (default --n-head)", low=1
    )
    qk_norm: bool = setting(
        False, "divide each head's queries and keys by their root mean square, and scale them"
    )
    value_embeddings: bool = setting(
        False, "add an embedding of the tokens, of each layer's own, to its values"
    )
    activation: str = setting(next(iter(ACTIVATIONS)), "of the MLP", choices=tuple(ACTIVATIONS))
    mlp_width: int | None = setting(
        None,
        "width inside the MLP (default 4 times --n-embd; with a gate, whose matrix is a third one, "
        f"8/3 times it, rounded up to a multiple of {GATED_MULTIPLE})",
        low=1,
    )
    position: str = setting(
        "learned", "position encoding", choices=("learned", "sinusoidal", "rotary")
    )
    rope_theta: float = setting(
        10000.0, "with --position rotary: the longest wavelength, about, in 2 pi tokens", low=1
    )
    rotary_dims: int | None = setting(
        None, "with --position rotary: channels of a head that are turned (default all)", low=2
    )
    norm: str = setting(
        next(iter(NORMS)),
        "normalisation before attention and MLP",
        choices=tuple(NORMS),
        formerly={"layer": "layernorm"},
    )
    norm_eps: float = setting(1e-5, "added to the variance that a norm divides by", low=0)
    parallel_residual: bool = setting(
        False, "attention and MLP of a block read the same, and are added at once"
    )
    tied_head: bool = setting(True, "the token embedding is the head's matrix too")
    logit_softcap: float = setting(
        0.0, "c: logits x become c tanh(x / c), and so stay below it (0: no limit)", low=0
    )
    init: str = setting("xavier", "initial weights", choices=("normal", "xavier"))
    zero_init: bool = setting(
        False, "begin with zeros where attention and MLP lead back to the residual stream"
    )
    architecture: str = setting(
        next(iter(ARCHITECTURES)),
        "; ".join(f"{row.name}: {row.help}" for row in ARCHITECTURES.values()),
        choices=tuple(ARCHITECTURES),
    )


OWN = {
    f.name: (row.name, f)
    for row in ARCHITECTURES.values()
    if row.settings is not None
    for f in fields(row.settings)
}
"""The architecture and the field of each setting that one alone has."""


if TYPE_CHECKING:

    @dataclass(frozen=True)
    class ModelConfig(ShapeConfig):
        """These, and what any architecture has of its own: a field each."""

        def __getattr__(self, name: str) -> Any: ...

else:
    ModelConfig = make_dataclass(
        "ModelConfig",
        [(f.name, f.type, copy(f)) for f in (*fields(ShapeConfig), *(f for _, f in OWN.values()))],
        namespace={"__doc__": ShapeConfig.__doc__, "__module__": __name__},
        frozen=True,
    )


def mlp_width(model: ShapeConfig) -> int:
    """Return the width inside the MLP."""
    if model.mlp_width is not None:
        return model.mlp_width
    if model.activation in GATED:
        return -(-8 * model.n_embd // (3 * GATED_MULTIPLE)) * GATED_MULTIPLE
    return 4 * model.n_embd


def head_size(model: ShapeConfig) -> int:
    """Return the channels of a head."""
    return model.n_embd // model.n_head


def kv_heads(model: ShapeConfig) -> int:
    """Return the heads of keys and values."""
    return model.n_kv_head or model.n_head


def rotary_dims(model: ShapeConfig) -> int | None:
    """Return how many channels of a head are turned, where positions are told that way."""
    if model.position != "rotary":
        return None
    return model.rotary_dims or head_size(model)
