"""The module of nvidia-cudnn-frontend, without cuDNN: graphs of attention, carried out by NumPy on
the addresses, dimensions and strides that they were described with."""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum
from types import SimpleNamespace
from typing import Any

import numpy as np
from emulated.blas import at, put, wide

from psdp.params import Array

KINDS = {"BFLOAT16": np.uint16, "FLOAT": np.float32, "INT64": np.int64}


class GraphNotSupported(Exception):
    """Stands for cuDNN's refusal of a graph."""


class Tensor:
    """A tensor of a graph, as it was described."""

    def __init__(self, **what: Any) -> None:
        self.what = what

    def _with(self, name: str, value: Any) -> Tensor:
        self.what[name] = value
        return self

    def set_output(self, is_output: bool) -> Tensor:
        return self._with("output", is_output)

    def set_dim(self, dim: list[int]) -> Tensor:
        return self._with("dim", dim)

    def set_stride(self, stride: list[int]) -> Tensor:
        return self._with("stride", stride)

    def set_data_type(self, kind: Enum) -> Tensor:
        return self._with("data_type", kind)

    def set_uid(self, uid: int) -> Tensor:
        return self._with("uid", uid)

    def at(self, pack: dict[int, int]) -> Array:
        """View the memory that it is bound to."""
        dim, stride = self.what["dim"], self.what["stride"]
        dtype = np.dtype(KINDS[self.what["data_type"].name])
        last = sum((size - 1) * step for size, step in zip(dim, stride, strict=True))
        flat = at(pack[self.what["uid"]], last + 1, dtype)
        return np.lib.stride_tricks.as_strided(
            flat, dim, [step * dtype.itemsize for step in stride]
        )


class Graph:
    """A pygraph of one operation."""

    def __init__(self, module: Cudnn, io_data_type: Enum, **others: Any) -> None:
        self._module, self._kind = module, io_data_type
        self._run: Callable[[dict[int, int]], None] = lambda pack: None
        self._heads: list[Tensor] = []
        self._built = False

    def tensor(self, **what: Any) -> Tensor:
        return Tensor(**what)

    def _output(self) -> Tensor:
        return Tensor(data_type=self._kind)

    def sdpa(
        self, *, name: str, q: Tensor, k: Tensor, v: Tensor, generate_stats: bool,
        attn_scale: float, use_causal_mask: bool, dropout: Any,
    ) -> tuple[Tensor, Tensor]:  # fmt: skip
        assert generate_stats
        out, sums = self._output(), self._output()

        def run(pack: dict[int, int]) -> None:
            weights, total, mask = self._weights(q, k, attn_scale, use_causal_mask, dropout, pack)
            put(out.at(pack), weights * mask @ wide(v.at(pack)))
            put(sums.at(pack), total)

        self._run, self._heads = run, [q, k, v, out]
        return out, sums

    def sdpa_backward(
        self, *, name: str, q: Tensor, k: Tensor, v: Tensor, o: Tensor, dO: Tensor, stats: Tensor,
        attn_scale: float, use_causal_mask: bool, dropout: Any, use_deterministic_algorithm: bool,
    ) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
        assert use_deterministic_algorithm
        gradients = self._output(), self._output(), self._output()

        def run(pack: dict[int, int]) -> None:
            drop = dropout
            if drop is not None and "another mask" in self._module.faults:
                drop = dropout[0], dropout[2], dropout[1]
            weights, total, mask = self._weights(q, k, attn_scale, use_causal_mask, drop, pack)
            np.testing.assert_allclose(stats.at(pack), total, rtol=1e-5, atol=1e-5)
            wq, wk, wv, wo, wdo = (wide(one.at(pack)) for one in (q, k, v, o, dO))
            dv = (weights * mask).transpose(0, 1, 3, 2) @ wdo
            dweights = wdo @ wv.transpose(0, 1, 3, 2) * mask
            dscores = weights * (dweights - (wdo * wo).sum(axis=3, keepdims=True)) * attn_scale
            values = dscores @ wk, dscores.transpose(0, 1, 3, 2) @ wq, dv
            for gradient, value in zip(gradients, values, strict=True):
                put(gradient.at(pack), value)

        self._run, self._heads = run, [q, k, v, o, dO, *gradients]
        return gradients

    def _weights(
        self, q: Tensor, k: Tensor, scale: float, causal: bool, dropout: Any, pack: dict[int, int]
    ) -> tuple[Array, Array, Array]:
        """Return the weights (B, H, T, T), the logarithms of their sums, and the mask."""
        faults = self._module.faults
        scores = wide(q.at(pack)) @ wide(k.at(pack)).transpose(0, 1, 3, 2)
        scores *= 1.0 if "no scale" in faults else scale
        if causal and "sees the future" not in faults:
            scores += np.triu(np.full(scores.shape[2:], -np.inf), 1)
        top = scores.max(axis=3, keepdims=True)
        total = top + np.log(np.exp(scores - top).sum(axis=3, keepdims=True))
        mask = np.ones(scores.shape)
        if dropout is not None and "drops nothing" not in faults:
            p, *numbers = dropout
            drawn = [int(number.at(pack).item()) % 2**63 for number in numbers]
            mask = (np.random.default_rng(drawn).random(scores.shape) >= p) / (1 - p)
        return np.exp(scores - total), total, mask

    def validate(self) -> None:
        for tensor in self._heads:
            if tensor.what["dim"][3] % 8:
                raise GraphNotSupported("hidden_dim should be multiple of 8")

    def build_operation_graph(self) -> None:
        pass

    def create_execution_plans(self, modes: list[Any]) -> None:
        pass

    def check_support(self) -> None:
        if "refuses" in self._module.faults:
            raise GraphNotSupported("no engine")

    def build_plans(self) -> None:
        self._built = True

    def get_workspace_size(self) -> int:
        return self._module.workspace_bytes

    def execute(self, pack: dict[int, int], workspace: int, handle: Any) -> None:
        assert self._built
        at(workspace, self._module.workspace_bytes, np.uint8)
        self._module.executed += 1
        handle(lambda: self._run(pack))


class Cudnn:
    """The module.

    Args:
        faults: what is wrong with it: "no scale", "sees the future", "drops nothing",
            "another mask", "refuses".
    """

    data_type = Enum("data_type", list(KINDS))
    heur_mode = SimpleNamespace(A="A")
    cudnnGraphNotSupportedError = GraphNotSupported

    def __init__(self, *faults: str) -> None:
        self.faults, self.executed, self.workspace_bytes = faults, 0, 4000

    def backend_version(self) -> int:
        return 92800

    def pygraph(self, **settings: Any) -> Graph:
        del settings["handle"], settings["intermediate_data_type"], settings["compute_data_type"]
        return Graph(self, **settings)
