"""The table of architectures: what each model of language is called, what it is, where it is, and
what settings it has that others have not; and the tables of layers that a block takes one of.

Everyone else takes an architecture or a layer from here by its name. Nothing is built here.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any


@dataclass(frozen=True)
class Architecture:
    """One architecture.

    Attributes:
        help: what it is, in a few words.
        model: the module and the class of its model, a
            :class:`psdp.nn.models.base.LanguageModel`.
        settings: a dataclass of those of its own, each a flag (psdp.fields).
        attends: whether it has heads that attend to positions.
    """

    name: str
    help: str
    model: str
    settings: type[Any] | None = None
    attends: bool = False


_TABLE = (
    Architecture(
        "decoder",
        "a decoder-only Transformer",
        model="psdp.nn.models.decoder:DecoderModel",
        attends=True,
    ),
)

ARCHITECTURES: Mapping[str, Architecture] = MappingProxyType({row.name: row for row in _TABLE})
"""Every architecture by its name, the default first."""

NORMS: Mapping[str, str] = MappingProxyType(
    {"layernorm": "psdp.nn.layernorm:LayerNorm", "rmsnorm": "psdp.nn.rmsnorm:RMSNorm"}
)
"""The module and the class of each :class:`psdp.nn.parts.Norm`, the default first."""

GATED = ("swiglu", "geglu")
"""Activations of one half of the channels that gate the other half."""

ACTIVATIONS: Mapping[str, str] = MappingProxyType(
    dict.fromkeys(("gelu", "gelu-erf", "relu", "relu2"), "psdp.nn.mlp:MLP")
    | dict.fromkeys(GATED, "psdp.nn.gated:GatedMLP")
)
"""Those of the :class:`psdp.nn.parts.FeedForward` with each activation, the default first."""
