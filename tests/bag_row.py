"""The row of a second architecture, for a table that has not been read yet."""

from __future__ import annotations

from dataclasses import dataclass

from psdp import architectures
from psdp.fields import setting


@dataclass(frozen=True)
class BagSettings:
    """Settings that no other architecture has."""

    bag_decay: float = setting(0.9, "how much of a word is left a token later", low=0, below=1)


ROW = architectures.Architecture(
    "bag-of-words", "words in no order", model="bag_of_words:BagOfWords", settings=BagSettings
)


def add_row() -> None:
    """Let the table have it; before anybody reads the table."""
    architectures.ARCHITECTURES = {**architectures.ARCHITECTURES, ROW.name: ROW}  # type: ignore[misc]
