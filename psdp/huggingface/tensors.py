"""Which tensors a parameter of psdp's is elsewhere, and how its elements lie in them."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from itertools import accumulate

import numpy as np

from psdp.config import ModelConfig, head_size, kv_heads, mlp_width
from psdp.huggingface.architectures import Architecture
from psdp.params import Array, ParamSpec


@dataclass(frozen=True)
class Counterpart:
    """A parameter, and the tensors that it is elsewhere.

    Attributes:
        theirs: names of the tensors.
        channels: output channels of each, which lie side by side in the parameter.
        transposed: whether matrices are (out, in) there.
        heads: that have their queries, keys and values side by side there; 0: none.
    """

    spec: ParamSpec
    theirs: tuple[str, ...]
    channels: tuple[int, ...]
    transposed: bool
    heads: int

    def theirs_of(self, ours: Array) -> dict[str, Array]:
        """Return the tensors by their names, views where that can be."""
        turned = ours.T if self.transposed else ours
        if self.heads:
            turned = _swapped(turned, 3, self.heads)
        if len(self.theirs) == 1:
            return {self.theirs[0]: turned}
        ends = [*accumulate(self.channels)][:-1]
        return dict(zip(self.theirs, np.split(turned, ends), strict=True))

    def ours_of(self, theirs: Callable[[str], Array]) -> Array:
        """Return the parameter, of the tensors that ``theirs`` returns by their names."""
        found = [theirs(name) for name in self.theirs]
        turned = found[0] if len(found) == 1 else np.concatenate(found)
        if self.heads:
            turned = _swapped(turned, self.heads, 3)
        return turned.T if self.transposed else turned

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Return the shape of each tensor."""
        like = np.broadcast_to(np.uint8(0), self.spec.shape)
        return {name: tensor.shape for name, tensor in self.theirs_of(like).items()}


def counterparts(
    row: Architecture, model: ModelConfig, specs: Iterable[ParamSpec]
) -> list[Counterpart]:
    """Return those of all parameters of a model."""
    return [_counterpart(row, model, spec) for spec in specs]


def _counterpart(row: Architecture, model: ModelConfig, spec: ParamSpec) -> Counterpart:
    before, name = "", spec.name
    if name.startswith("block."):
        _, number, name = name.split(".", 2)
        before = f"{row.layer}.{number}."
    layer, _, kind = name.rpartition(".")
    if name in row.tensors:  # an embedding, whose name is all of it
        layer, kind = name, "rows"
    found = row.tensors[layer]
    several = (found,) if isinstance(found, str) else found
    end = "bias" if kind == "bias" else "weight"
    return Counterpart(
        spec,
        theirs=tuple(f"{before}{one}.{end}" for one in several),
        channels=_channels(model, layer) if len(several) > 1 else (),
        transposed=row.transposed and kind == "weight",
        heads=model.n_head if row.by_head and layer == "attention.qkv" else 0,
    )


def _channels(model: ModelConfig, layer: str) -> tuple[int, ...]:
    """Return the output channels of the linear maps that lie side by side in a layer."""
    kv_width, wide = kv_heads(model) * head_size(model), mlp_width(model)
    return {"attention.qkv": (model.n_embd, kv_width, kv_width), "mlp.up": (wide, wide)}[layer]


def _swapped(array: Array, outer: int, inner: int) -> Array:
    """Return an array (outer * inner * D, ...) with the first two of these the other way round."""
    each = array.reshape(outer, inner, -1, *array.shape[1:])
    return each.swapaxes(0, 1).reshape(array.shape)
