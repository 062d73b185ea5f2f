"""Attention by cuDNN: the kernel that NVIDIA wrote for each of its GPUs, on bfloat16.

It is FlashAttention-2 (Dao 2023, arXiv:2307.08691) too, with what only the newest can do.
"""

from __future__ import annotations

from typing import Any

from psdp.backend.gpu.device import address
from psdp.backend.gpu.libraries import AttentionShape, Unsupported, first_line
from psdp.params import Array

LEAST_TOKENS = 2048
"""Of a batch for which a plan is made: that takes a good part of a second, for each shape."""

# Numbers of the tensors of a graph.
_Q, _K, _V, _OUT, _SUMS, _DOUT, _DQ, _DK, _DV, _SEED, _OFFSET = range(1, 12)


class CudnnAttention:
    """See :class:`psdp.backend.gpu.libraries.FusedAttention`.

    Args:
        cudnn: the module of nvidia-cudnn-frontend.
        handle: of cuDNN, on the stream that attention is asked for on.
        device_properties: of another GPU, to plan for it; such plans cannot run here.
    """

    def __init__(self, cudnn: Any, handle: Any, device_properties: Any = None) -> None:
        self._cudnn, self._handle, self._device_properties = cudnn, handle, device_properties
        version = cudnn.backend_version()
        self.name = f"cuDNN {version // 10000}.{version // 100 % 100}"
        self._plans: dict[AttentionShape, CudnnPlan] = {}

    def plan(self, shape: AttentionShape) -> CudnnPlan:
        """
        Raises:
            Unsupported: cuDNN does not do this shape, or it is too small to plan for.
        """
        plan = self._plans.get(shape)
        if plan is None:
            plan = self._plans[shape] = self._plan(shape)
        return plan

    def _plan(self, shape: AttentionShape) -> CudnnPlan:
        if shape.batch * shape.length < LEAST_TOKENS:
            raise Unsupported(f"{shape.batch} x {shape.length} tokens are few")
        try:
            forward, backward = self._graph(shape), self._graph(shape)
            _describe_forward(self._cudnn, forward, shape)
            _describe_backward(self._cudnn, backward, shape)
            for graph in (forward, backward):
                graph.validate()
                graph.build_operation_graph()
                graph.create_execution_plans([self._cudnn.heur_mode.A])
                graph.check_support()
                graph.build_plans()
        except (self._cudnn.cudnnGraphNotSupportedError, RuntimeError, ValueError) as error:
            raise Unsupported(first_line(error)) from error
        return CudnnPlan(shape, forward, backward, self._handle)

    def _graph(self, shape: AttentionShape) -> Any:
        types = self._cudnn.data_type
        where: dict[str, Any] = {"handle": self._handle}
        if self._device_properties is not None:
            where = {"device_property": self._device_properties}
        return self._cudnn.pygraph(
            io_data_type=types.BFLOAT16,
            intermediate_data_type=types.FLOAT,
            compute_data_type=types.FLOAT,
            **where,
        )


class CudnnPlan:
    """See :class:`psdp.backend.gpu.libraries.AttentionPlan`."""

    def __init__(self, shape: AttentionShape, forward: Any, backward: Any, handle: Any) -> None:
        self._shape, self._handle = shape, handle
        self._forward, self._backward = forward, backward
        self.workspace_bytes = int(max(forward.get_workspace_size(), backward.get_workspace_size()))

    def forward(
        self, qkv: Array, out: Array, logsumexp: Array, seed: Array, offset: Array, workspace: Array
    ) -> None:
        variant_pack = self._thirds(qkv, (_Q, _K, _V)) | self._drawn(seed, offset)
        variant_pack |= {_OUT: address(out), _SUMS: address(logsumexp)}
        self._forward.execute(variant_pack, address(workspace), handle=self._handle)

    def backward(
        self,
        qkv: Array,
        out: Array,
        logsumexp: Array,
        dout: Array,
        dqkv: Array,
        seed: Array,
        offset: Array,
        workspace: Array,
    ) -> None:
        variant_pack = self._thirds(qkv, (_Q, _K, _V)) | self._drawn(seed, offset)
        variant_pack |= {_OUT: address(out), _SUMS: address(logsumexp), _DOUT: address(dout)}
        variant_pack |= self._thirds(dqkv, (_DQ, _DK, _DV))
        self._backward.execute(variant_pack, address(workspace), handle=self._handle)

    def _thirds(self, rows: Array, numbers: tuple[int, ...]) -> dict[int, int]:
        """Return where queries, keys and values lie, side by side in every row."""
        width = rows.itemsize * self._shape.heads * self._shape.head
        return {number: address(rows) + i * width for i, number in enumerate(numbers)}

    def _drawn(self, seed: Array, offset: Array) -> dict[int, int]:
        return {_SEED: address(seed), _OFFSET: address(offset)} if self._shape.p else {}


def _describe_forward(cudnn: Any, graph: Any, shape: AttentionShape) -> None:
    q, k, v = _inputs(cudnn, graph, shape, (_Q, _K, _V), 3)
    settings = _settings(cudnn, graph, shape)
    out, logsumexp = graph.sdpa(name="attention", q=q, k=k, v=v, generate_stats=True, **settings)
    dims, strides = _layout(shape, 1)
    out.set_output(True).set_dim(dims).set_stride(strides).set_uid(_OUT)
    logsumexp.set_output(True).set_data_type(cudnn.data_type.FLOAT).set_uid(_SUMS)
    dims, strides = _sums_layout(shape)
    logsumexp.set_dim(dims).set_stride(strides)


def _describe_backward(cudnn: Any, graph: Any, shape: AttentionShape) -> None:
    q, k, v = _inputs(cudnn, graph, shape, (_Q, _K, _V), 3)
    out, dout = _inputs(cudnn, graph, shape, (_OUT, _DOUT), 1)
    dims, strides = _sums_layout(shape)
    kind = cudnn.data_type.FLOAT
    logsumexp = graph.tensor(name="sums", dim=dims, stride=strides, data_type=kind, uid=_SUMS)
    gradients = graph.sdpa_backward(
        name="attention backward", q=q, k=k, v=v, o=out, dO=dout, stats=logsumexp,
        use_deterministic_algorithm=True, **_settings(cudnn, graph, shape),
    )  # fmt: skip
    dims, strides = _layout(shape, 3)
    for gradient, number in zip(gradients, (_DQ, _DK, _DV), strict=True):
        gradient.set_output(True).set_dim(dims).set_stride(strides).set_uid(number)


def _inputs(
    cudnn: Any, graph: Any, shape: AttentionShape, numbers: tuple[int, ...], parts: int
) -> list[Any]:
    dims, strides = _layout(shape, parts)
    kind = cudnn.data_type.BFLOAT16
    return [
        graph.tensor(name=f"tensor {number}", dim=dims, stride=strides, data_type=kind, uid=number)
        for number in numbers
    ]


def _settings(cudnn: Any, graph: Any, shape: AttentionShape) -> dict[str, Any]:
    settings = {"attn_scale": shape.head**-0.5, "use_causal_mask": True, "dropout": None}
    if shape.p:
        seed, offset = (
            graph.tensor(name=name, dim=[1] * 4, stride=[1] * 4, data_type=kind, uid=number)
            for name, number, kind in (
                ("seed", _SEED, cudnn.data_type.INT64),
                ("offset", _OFFSET, cudnn.data_type.INT64),
            )
        )
        settings["dropout"] = (shape.p, seed, offset)
    return settings


def _layout(shape: AttentionShape, parts: int) -> tuple[list[int], list[int]]:
    """Return dimensions (B, H, T, D) and strides of one of so many matrices (N, C) side by side."""
    row = parts * shape.heads * shape.head
    dims = [shape.batch, shape.heads, shape.length, shape.head]
    return dims, [shape.length * row, shape.head, row, 1]


def _sums_layout(shape: AttentionShape) -> tuple[list[int], list[int]]:
    dims = [shape.batch, shape.heads, shape.length, 1]
    return dims, [shape.heads * shape.length, shape.length, 1, 1]
