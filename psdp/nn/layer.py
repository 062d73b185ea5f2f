"""What all layers have in common."""

from __future__ import annotations

from typing import ClassVar


class Layer:
    """A part of a model, with a forward pass and, where it trains, a backward one.

    Attributes:
        kind: what its work counts for in a profile, but for what it does through other layers.
    """

    kind: ClassVar[str]

    def __init_subclass__(cls, kind: str, **others: object) -> None:
        super().__init_subclass__(**others)
        cls.kind = kind
