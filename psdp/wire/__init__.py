"""How vectors are put on the wire: one codec a file, and the registry of them.

A new one is a file here and its line in the registry; nobody else asks which codec it is.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

import numpy.typing as npt

from psdp.wire.average import weighted_mean
from psdp.wire.base import Codec, Encode
from psdp.wire.bf16 import BFloat16
from psdp.wire.plain import Plain

__all__ = ["CODECS", "Codec", "Encode", "make_codec", "weighted_mean"]

CODECS: Mapping[str, type[Codec]] = MappingProxyType(
    {codec.name: codec for codec in (Plain, BFloat16)}
)
"""The codecs of float32 vectors by their names, the default first."""


def make_codec(name: str | None, dtype: npt.DTypeLike) -> Codec:
    """Return the codec of this name for vectors of ``dtype``; None is for vectors as they are."""
    return Plain(dtype) if name is None else CODECS[name](dtype)
