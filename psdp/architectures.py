"""The table of architectures: what each model of language is called, what it is, where it is, and
what settings it has that others have not.

Everyone else takes an architecture from here by its name. Pure: no settings are parsed here and
nothing is built.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType


@dataclass(frozen=True)
class Own:
    """A setting that one architecture has: its default, its line of help, and the values that it
    may have, which are ``choices``, or low <= x < below."""

    default: bool | int | float | str
    help: str
    choices: tuple[str, ...] = ()
    low: float | None = None
    below: float | None = None


@dataclass(frozen=True)
class Architecture:
    """One architecture.

    Attributes:
        help: what it is, in a few words.
        model: the module and the class of its model, a
            :class:`psdp.nn.models.base.LanguageModel`.
        settings: of its own, by name; a flag each.
    """

    name: str
    help: str
    model: str
    settings: Mapping[str, Own] = field(default_factory=dict)


_TABLE = (
    Architecture(
        "decoder",
        "a decoder-only Transformer",
        model="psdp.nn.models.decoder:DecoderModel",
    ),
)

ARCHITECTURES: Mapping[str, Architecture] = MappingProxyType({row.name: row for row in _TABLE})
"""Every architecture by its name, the default first."""
