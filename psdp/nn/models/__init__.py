"""Models of language: one architecture a file, and what they have in common.

Which there are is said in psdp/architectures.py.
"""

from __future__ import annotations

from importlib import import_module

from psdp.architectures import ARCHITECTURES
from psdp.nn.models.base import LanguageModel, Sampler

__all__ = ["LanguageModel", "Sampler", "language_model"]


def language_model(architecture: str) -> type[LanguageModel]:
    """Return the model of an architecture."""
    module, _, name = ARCHITECTURES[architecture].model.partition(":")
    found: type[LanguageModel] = getattr(import_module(module), name)
    return found
