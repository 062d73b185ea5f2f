"""The CUDA sources, and what each is compiled for.

Nothing here needs a GPU or CuPy: who compiles a source, and runs it, is handed in.
"""

from __future__ import annotations

from importlib.resources import files
from typing import NamedTuple

FORMATS = {"float32": "float", "float64": "double", "bf16": "bf16"}
"""C++ types of number formats."""

OPTIONS = ("--std=c++17",)
"""What every source is compiled with, beside its definitions."""


class Source(NamedTuple):
    """A file for two number formats and, for attention, the size of a head and of a tile, and
    whether weights are dropped."""

    file: str
    real: str
    act: str
    head: int = 0
    tile: int = 0
    drops: bool = False

    def definitions(self) -> tuple[str, ...]:
        """Return the compiler's options that say what this is compiled for."""
        formats = (f"-DREAL={FORMATS[self.real]}", f"-DACT={FORMATS[self.act]}")
        if not self.head:
            return formats
        return (*formats, f"-DHEAD={self.head}", f"-DTILE={self.tile}", f"-DDROPS={self.drops:d}")

    def text(self) -> str:
        """Return the whole source, headers first."""
        folder = files(__name__)
        names = ["common.cuh", *(["attention.cuh"] if self.head else []), self.file]
        return "\n".join((folder / name).read_text(encoding="utf-8") for name in names)


def all_sources(head: int = 64) -> list[Source]:
    """Return every file in every pair of formats that a backend asks for."""
    sources = []
    for real, act in (("float32", "float32"), ("float64", "float64"), ("float32", "bf16")):
        for name in ("adam", "elementwise", "layernorm", "loss", "rows", "sums"):
            sources.append(Source(f"{name}.cu", real, act))
        sources += [Source("attention.cu", real, act, head, 32, drops) for drops in (False, True)]
    for drops in (False, True):
        sources.append(Source("attention_mma.cu", "float32", "bf16", head, drops=drops))
    return sources
