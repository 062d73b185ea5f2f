"""The CUDA sources, and what each is compiled for.

Nothing here needs a GPU or CuPy: who compiles a source, and runs it, is handed in.
"""

from __future__ import annotations

from importlib.resources import files
from typing import NamedTuple

from psdp.backend.gpu.cuda.tiles import WARP, Tile, plain_tile, tensor_core_tile

FORMATS = {"float32": "float", "float64": "double", "bf16": "bf16"}
"""C++ types of number formats."""

OPTIONS = ("--std=c++17",)
"""What every source is compiled with, beside its definitions."""


class Source(NamedTuple):
    """A file for two number formats and, for attention, a tile, and whether weights are dropped."""

    file: str
    real: str
    act: str
    tile: Tile | None = None
    drops: bool = False

    def definitions(self) -> tuple[str, ...]:
        """Return the compiler's options that say what this is compiled for."""
        macros: dict[str, str | int] = {"REAL": FORMATS[self.real], "ACT": FORMATS[self.act]}
        macros["WARP"] = WARP
        if self.tile is not None:
            macros |= self.tile.definitions() | {"DROPS": int(self.drops)}
        return tuple(f"-D{name}={value}" for name, value in macros.items())

    def text(self) -> str:
        """Return the whole source, headers first."""
        folder = files(__name__)
        names = ["common.cuh", *(["attention.cuh"] if self.tile else []), self.file]
        return "\n".join((folder / name).read_text(encoding="utf-8") for name in names)


def all_sources(head: int = 64) -> list[Source]:
    """Return every file in every pair of formats that a backend asks for."""
    names = sorted(file.name for file in files(__name__).iterdir() if file.name.endswith(".cu"))
    plain, tensor_core = "attention.cu", "attention_mma.cu"
    sources = []
    for real, act in (("float32", "float32"), ("float64", "float64"), ("float32", "bf16")):
        sources += [Source(name, real, act) for name in names if name not in (plain, tensor_core)]
        tile = plain_tile(head, 8 if real == "float64" else 4, 2**20)
        sources += [Source(plain, real, act, tile, drops) for drops in (False, True)]
    wide = tensor_core_tile(head)
    sources += [Source(tensor_core, "float32", "bf16", wide, drops) for drops in (False, True)]
    return sources
