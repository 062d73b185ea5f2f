"""What every backend promises, on random shapes, against plain formulas in float64.

NumPy's kernels, the compiled ones, and those of a GPU, which run on an emulated device here."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from emulated.device import EmulatedDevice
from emulated.libraries import gemm
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from psdp.backend import AdamStep, Backend, Scalar, make_backend
from psdp.backend.costs import COSTS
from psdp.backend.cpu.compiled import CompiledBackend
from psdp.backend.cpu.numpy import NumpyBackend
from psdp.backend.gpu.backend import GpuBackend
from psdp.backend.gpu.dropout import Mask
from psdp.backend.gpu.libraries import NO_LIBRARIES, Libraries
from psdp.backend.kernels.attention import causal_blocks
from psdp.backend.kernels.normalization import LAYER_NORM_EPS
from psdp.params import Array

BACKENDS = [
    *("numpy float32", "numpy float64", "compiled"),
    *("gpu float32", "gpu float64", "gpu bf16", "gpu float32 fused", "gpu bf16 fused"),
]

Numbers = Callable[..., Array]

random_shapes = settings(
    max_examples=12,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
    phases=[Phase.explicit, Phase.generate],
)
rows_and_width = given(
    rows=st.sampled_from([1, 2, 7, 33, 130]),
    width=st.sampled_from([1, 2, 5, 32, 33, 100, 257]),
    seed=st.integers(0, 99),
)


@pytest.fixture(params=BACKENDS)
def backend(request: pytest.FixtureRequest, kernel_folder: Path) -> Backend:
    kind, *detail = request.param.split()
    if kind == "gpu":
        precision = "bf16" if detail[0] == "bf16" else "float32"
        dtype = "float32" if detail[0] == "bf16" else detail[0]
        device, libraries = EmulatedDevice(kernel_folder), NO_LIBRARIES
        if detail[1:] == ["fused"]:
            libraries = Libraries(gemm=gemm(device)[1])
        return GpuBackend(device, dtype, precision, libraries)
    return make_backend("cpu", detail[0] if detail else "float32", kernels=kind)


class Bench:
    """Arrays of a backend, and the float64 that they stand for."""

    def __init__(self, backend: Backend, seed: int) -> None:
        self.backend, self.rng = backend, np.random.default_rng(seed)
        self.half = backend.compute_dtype != backend.dtype
        self.tolerance = {"float32": 1e-5, "float64": 1e-12}[str(backend.dtype)]

    def real(self, *shape: int) -> tuple[Array, Array]:
        host = self.rng.standard_normal(shape).astype(self.backend.dtype)
        device = self.backend.empty(*shape)
        self.backend.to_device(host, device)
        return device, host.astype(np.float64)

    def branch(self, *shape: int) -> tuple[Array, Array]:
        array, _ = self.real(*shape)
        room = self.backend.empty(*shape, dtype=self.backend.compute_dtype)
        room = self.backend.cast(array, room)
        return room, self.wide(room)

    def room(self, *shape: int) -> Array:
        return self.backend.empty(*shape, dtype=self.backend.compute_dtype)

    def ids(self, values: Any) -> Array:
        room = self.backend.new_ids(len(values))
        self.backend.load_ids(np.array(values), room, ordered=True)
        return room

    def wide(self, array: Array) -> Array:
        host = np.empty(array.shape, array.dtype)
        self.backend.to_host(array, host)
        if self.half and host.dtype == np.uint16:
            return torch.from_numpy(host.astype(np.int16)).view(torch.bfloat16).double().numpy()
        return host.astype(np.float64)

    def close(self, got: Array, expected: Array, terms: int = 1) -> None:
        """Assert equality up to rounding: of float, of bfloat16 in a branch, of a sum of terms."""
        rounded = self.half and got.dtype == self.backend.compute_dtype
        relative = 2.0**-7 if rounded else self.tolerance
        absolute = relative * math.sqrt(terms)
        np.testing.assert_allclose(self.wide(got), expected, rtol=relative, atol=absolute)


def test_every_kernel_says_what_it_costs() -> None:
    declared = {
        name
        for topic in Backend.__bases__
        for name, member in vars(topic).items()
        if inspect.isfunction(member) and not name.startswith("_")
    }
    assert declared == COSTS.keys()
    assert len(declared) > 20


def test_all_backends_have_the_same_kernels_with_the_same_arguments() -> None:
    for name in COSTS:
        kernel = getattr(Backend, name)
        for backend in (NumpyBackend, CompiledBackend, GpuBackend):
            other = inspect.signature(getattr(backend, name)).parameters
            assert list(other) == list(inspect.signature(kernel).parameters), (backend, name)


def test_a_part_of_a_vector_is_copied_to_a_part_of_another(backend: Backend) -> None:
    bench = Bench(backend, 3)
    (source, values), (out, before) = bench.real(20), bench.real(20)
    backend.copy(source[3:8], out[10:15])
    expected = before.copy()
    expected[10:15] = values[3:8]
    assert np.array_equal(backend.on_host(out), expected)
    assert np.array_equal(backend.on_host(source), values)


@random_shapes
@rows_and_width
def test_products_add_or_overwrite_and_take_transposed_views(
    backend: Backend, rows: int, width: int, seed: int
) -> None:
    bench = Bench(backend, seed)
    (x, wide_x), (w, wide_w) = bench.branch(rows, width), bench.branch(width, 6)
    (dy, wide_dy), (bias, wide_bias) = bench.branch(rows, 6), bench.branch(6)
    y, dx = bench.room(rows, 6), bench.room(rows, width)
    backend.affine(x, w, bias, y)
    bench.close(y, wide_x @ wide_w + wide_bias, width)
    backend.affine(x, w, None, y)
    bench.close(y, wide_x @ wide_w, width)
    backend.matmul(dy, w.T, dx)
    bench.close(dx, wide_dy @ wide_w.T, 6)
    dw, before = bench.real(width, 6)
    backend.add_matmul(x.T, dy, dw)
    bench.close(dw, before + wide_x.T @ wide_dy, rows)
    (stream, before), (bias, wide_bias) = bench.real(rows, 6), bench.real(6)
    backend.add_affine(x, w, bias, stream)
    bench.close(stream, before + wide_bias + wide_x @ wide_w, width)
    stream, before = bench.real(rows, 6)
    backend.add_affine(x, w, None, stream)
    bench.close(stream, before + wide_x @ wide_w, width)


@random_shapes
@rows_and_width
def test_gelu_after_a_product(backend: Backend, rows: int, width: int, seed: int) -> None:
    bench = Bench(backend, seed)
    for columns in (5, 8):
        (x, wide_x), (w, wide_w) = bench.branch(rows, width), bench.branch(width, columns)
        bias, wide_bias = bench.branch(columns)
        inner, y = bench.room(rows, columns), bench.room(rows, columns)
        for added, wide_added in ((bias, wide_bias), (None, 0)):
            backend.affine_gelu(x, w, added, inner, y)
            expected = wide_x @ wide_w + wide_added
            bench.close(inner, expected, width)
            tensor = torch.nn.functional.gelu(torch.from_numpy(expected), approximate="tanh")
            bench.close(y, tensor.numpy(), width)


@random_shapes
@rows_and_width
def test_sums_down_the_columns_and_of_all(
    backend: Backend, rows: int, width: int, seed: int
) -> None:
    bench = Bench(backend, seed)
    for array, wide in (bench.branch(rows, width), bench.real(rows, width)):
        out, before = bench.real(width)
        backend.add_column_sums(array, out)
        bench.close(out, before + wide.sum(axis=0), rows)
    losses, wide = bench.real(rows)
    total = backend.zeros(1, dtype=np.float64)
    backend.add_total(losses, 0.5, total)
    backend.add_total(losses, 2.0, total)
    bench.close(total, np.array([2.5 * wide.sum()]), rows)


@random_shapes
@rows_and_width
def test_activations(backend: Backend, rows: int, width: int, seed: int) -> None:
    bench = Bench(backend, seed)
    for activation in ("gelu", "relu"):
        (x, wide), (dy, wide_dy) = bench.branch(rows, width), bench.branch(rows, width)
        tensor = torch.from_numpy(wide).requires_grad_()
        if activation == "gelu":
            expected = torch.nn.functional.gelu(tensor, approximate="tanh")
        else:
            expected = torch.relu(tensor)
        expected.backward(torch.from_numpy(wide_dy))
        assert tensor.grad is not None
        y = bench.room(rows, width)
        getattr(backend, activation)(x, y)
        bench.close(y, expected.detach().numpy())
        getattr(backend, f"{activation}_backward")(x, dy)
        bench.close(dy, tensor.grad.numpy())
        bench.close(x, expected.detach().numpy())


def test_nan_comes_through_activations_and_large_inputs_do_not_become_nan(
    backend: Backend,
) -> None:
    bench = Bench(backend, 0)
    values = np.array([[math.nan, -1e12, -1e4, -30.0, 0.0, 30.0, 1e4, 1e12]])
    real = backend.empty(1, 8)
    for activation in ("gelu", "relu"):
        backend.to_device(values, real)
        x = backend.cast(real, bench.room(1, 8))
        dy, _ = bench.branch(1, 8)
        getattr(backend, f"{activation}_backward")(x, dy)
        for array in (bench.wide(x)[0], bench.wide(dy)[0]):
            assert math.isnan(array[0])
            assert np.isfinite(array[1:]).all()
        assert np.array_equal(bench.wide(x)[0, 1:4].round(6), [0, 0, 0])


@random_shapes
@rows_and_width
def test_layer_norm_and_its_gradients(backend: Backend, rows: int, width: int, seed: int) -> None:
    bench = Bench(backend, seed)
    (x, wide), (dy, wide_dy) = bench.real(rows, width), bench.branch(rows, width)
    (gain, wide_gain), (bias, wide_bias) = bench.real(width), bench.real(width)
    tensors = [torch.from_numpy(a).requires_grad_() for a in (wide, wide_gain, wide_bias)]
    expected = torch.nn.functional.layer_norm(tensors[0], (width,), *tensors[1:], eps=1e-5)
    expected.backward(torch.from_numpy(wide_dy))
    normal, rstd, y = bench.room(rows, width), backend.empty(rows), bench.room(rows, width)
    backend.layer_norm(x, gain, bias, normal, rstd, y)
    dx, before = bench.real(rows, width)
    (dgain, before_gain), (dbias, before_bias) = bench.real(width), bench.real(width)
    if width > 2:  # two columns, or one, are -1, 0 and 1: their gradient is next to nothing
        bench.close(y, expected.detach().numpy())
        backend.layer_norm_backward(dy, gain, normal, rstd, dx, dgain, dbias)
        grads = [tensor.grad.numpy() for tensor in tensors if tensor.grad is not None]
        # Rounded is what the sums are of, and some of it cancels.
        scale = 2.0**-5 if bench.half else 10 * bench.tolerance
        sums = before + grads[0], before_gain + grads[1], before_bias + grads[2]
        for got, expected_sum in zip((dx, dgain, dbias), sums, strict=True):
            limit = scale * np.abs(expected_sum).max()
            np.testing.assert_allclose(bench.wide(got), expected_sum, atol=limit, rtol=0)


def test_every_backend_adds_the_same_epsilon_to_a_variance(backend: Backend) -> None:
    bench, values = Bench(backend, 0), np.tile([1e-3, -1e-3], (3, 8))
    x, rstd = backend.empty(3, 16), backend.empty(3)
    backend.to_device(values, x)
    gain, bias = bench.real(16)[0], bench.real(16)[0]
    backend.layer_norm(x, gain, bias, bench.room(3, 16), rstd, bench.room(3, 16))
    bench.close(rstd, np.full(3, (1e-6 + LAYER_NORM_EPS) ** -0.5))


@random_shapes
@rows_and_width
def test_cross_entropy_its_gradient_and_the_argmax(
    backend: Backend, rows: int, width: int, seed: int
) -> None:
    bench = Bench(backend, seed)
    logits, wide = bench.branch(rows, width)
    targets = bench.rng.integers(0, width, rows)
    tensor = torch.from_numpy(wide).requires_grad_()
    expected = torch.nn.functional.cross_entropy(
        tensor, torch.from_numpy(targets), reduction="none"
    )
    (0.5 * expected.sum()).backward()
    losses, best = backend.empty(rows), backend.empty(rows, dtype=np.int32)
    backend.argmax(logits, best)
    assert np.array_equal(bench.wide(best), wide.argmax(axis=1))
    backend.cross_entropy(logits, bench.ids(targets), 0.5, losses)
    bench.close(losses, expected.detach().numpy())
    assert tensor.grad is not None
    bench.close(logits, tensor.grad.numpy())


@random_shapes
@given(
    ids=st.lists(st.integers(0, 9), min_size=1, max_size=12)
    | st.integers(60, 300).map(lambda n: [i * i % 7 for i in range(n)])
    | st.integers(60, 300).map(lambda n: [3] * n),
    width=st.sampled_from([1, 5, 40, 129]),
    scale=st.sampled_from([1.0, 3.0]),
    seed=st.integers(0, 99),
)
def test_embedding_and_its_gradient(
    backend: Backend, ids: list[int], width: int, scale: float, seed: int
) -> None:
    bench = Bench(backend, seed)
    table, wide = bench.real(10, width)
    positions, wide_positions = bench.real(len(ids), width)
    out, room = backend.empty(len(ids), width), bench.ids(ids)
    backend.embed(table, room, scale, None, len(ids), out)
    bench.close(out, scale * wide[ids])
    twice = bench.ids([*ids, *ids])
    out = backend.empty(2 * len(ids), width)
    backend.embed(table, twice, scale, positions, len(ids), out)
    one = scale * wide[ids] + wide_positions
    bench.close(out, np.concatenate([one, one]))
    rows, wide_rows = bench.real(len(ids), width)
    gradient, before = bench.real(10, width)
    again = backend.empty(10, width)
    backend.to_device(before, again)
    np.add.at(before, ids, scale * wide_rows)
    backend.scatter_add(room, rows, scale, gradient)
    bench.close(gradient, before, len(ids))
    if scale == 1.0:  # what is added in the same order has the same bits
        backend.scatter_add(room, rows, scale, again)
        assert np.array_equal(bench.wide(again), bench.wide(gradient))


def reference_attention(qkv: torch.Tensor, batch: int, heads: int, mask: Any) -> torch.Tensor:
    count, width = qkv.shape[0], qkv.shape[1] // 3
    parts = qkv.reshape(batch, -1, 3, heads, width // heads).permute(2, 0, 3, 1, 4)
    scores = parts[0] @ parts[1].transpose(2, 3) * (width // heads) ** -0.5
    length = scores.shape[-1]
    hidden = torch.ones(length, length, dtype=torch.bool).triu(1)
    weights = scores.masked_fill(hidden, -math.inf).softmax(dim=-1)
    if mask is not None:
        weights = weights * torch.from_numpy(mask)
    return (weights @ parts[2]).transpose(1, 2).reshape(count, width)


def square_of(bench: Bench, mask: Any, batch: int, heads: int, length: int) -> Array:
    """Return an attention mask as (batch, heads, length, length)."""
    if isinstance(mask, Mask):
        size = batch * heads * length * length
        ones, out = bench.backend.empty(size), bench.backend.empty(size)
        bench.backend.to_device(np.ones(size), ones)
        bench.backend.drop(ones, mask, out)
        return bench.wide(out).reshape(batch, heads, length, length)
    square = np.zeros((batch, heads, length, length))
    for queries, keys, span in causal_blocks(batch * heads, length, bench.backend.query_block):
        square[:, :, queries, keys] = mask[span].reshape(square[:, :, queries, keys].shape)
    return square


@settings(random_shapes, max_examples=14)
@given(
    batch=st.integers(1, 2),
    heads=st.integers(1, 3),
    length=st.sampled_from([1, 2, 16, 33, 64, 65, 130]),
    head=st.sampled_from([1, 3, 8, 16, 32, 64, 80, 128]),
    p=st.sampled_from([0.0, 0.3]),
    seed=st.integers(0, 99),
)
def test_attention_and_its_gradient(
    backend: Backend, batch: int, heads: int, length: int, head: int, p: float, seed: int
) -> None:
    bench, count, width = Bench(backend, seed), batch * length, heads * head
    (qkv, wide), (dout, wide_dout) = bench.branch(count, 3 * width), bench.branch(count, width)
    mask, square = None, None
    if p:
        size = causal_blocks(batch * heads, length, backend.query_block)[-1].span.stop
        backend.seed(bench.rng)
        mask = backend.draw_mask(bench.rng, p, backend.new_mask(size), size)
        square = square_of(bench, mask, batch, heads, length)
    tensor = torch.from_numpy(wide).requires_grad_()
    expected = reference_attention(tensor, batch, heads, square)
    expected.backward(torch.from_numpy(wide_dout))
    out, dqkv = bench.room(count, width), bench.room(count, 3 * width)
    logsumexp = backend.empty(batch, heads, length)
    backend.attention(qkv, batch, heads, mask, out, logsumexp)
    backend.attention_backward(qkv, batch, heads, mask, out, logsumexp, dout, dqkv)
    assert tensor.grad is not None
    got, gradient = bench.wide(out), bench.wide(dqkv)
    limit = 0.02 if bench.half else 10 * bench.tolerance
    np.testing.assert_allclose(got, expected.detach().numpy(), rtol=limit, atol=limit)
    largest = np.abs(tensor.grad.numpy()).max()
    np.testing.assert_allclose(gradient, tensor.grad.numpy(), rtol=limit, atol=limit * largest)


@random_shapes
@given(
    batch=st.integers(1, 2),
    heads=st.integers(1, 3),
    length=st.sampled_from([1, 5, 33]),
    head=st.sampled_from([2, 6, 16]),
    seed=st.integers(0, 99),
)
def test_queries_and_keys_are_turned_and_turned_back(
    backend: Backend, batch: int, heads: int, length: int, head: int, seed: int
) -> None:
    bench, half = Bench(backend, seed), head // 2
    qkv, wide = bench.branch(batch * length, 3 * heads * head)
    angles = bench.rng.uniform(0, 6, (length, half))
    cos, sin = backend.empty(length, half), backend.empty(length, half)
    backend.to_device(np.cos(angles), cos)
    backend.to_device(np.sin(angles), sin)
    parts = wide.copy().reshape(batch, length, 3, heads, head)
    turned = parts[:, :, :2, :, :half] + 1j * parts[:, :, :2, :, half:]
    turned = turned * np.exp(1j * angles)[None, :, None, None, :]
    parts[:, :, :2, :, :half], parts[:, :, :2, :, half:] = turned.real, turned.imag
    backend.rotate(qkv, batch, heads, cos, sin, 1)
    bench.close(qkv, parts.reshape(wide.shape), 4)
    backend.rotate(qkv, batch, heads, cos, sin, -1)
    bench.close(qkv, wide, 8)


@pytest.mark.parametrize("p", [0.1, 0.75])
def test_dropout_keeps_its_share_and_the_same_mask_within_a_step(
    backend: Backend, p: float
) -> None:
    bench, shape = Bench(backend, 3), (200, 101)
    masks = []
    for seed in (4, 4, 5):
        rng = np.random.default_rng(seed)
        backend.seed(rng)
        room = masks[0][0] if masks else backend.new_mask(math.prod(shape))
        mask = backend.draw_mask(rng, p, room, math.prod(shape))
        (branch, wide), (stream, before) = bench.branch(*shape), bench.real(*shape)
        ones, kept = backend.empty(*shape), backend.empty(*shape)
        backend.to_device(np.ones(shape), ones)
        backend.drop(ones, mask, kept)
        factors = bench.wide(kept)
        masks.append((room, factors))
        bench.close(kept, np.where(factors == 0, 0, 1 / (1 - p)))
        backend.drop(stream, mask, stream)
        bench.close(stream, before * factors)
        backend.add_dropped(branch, mask, stream)
        bench.close(stream, before * factors + wide * factors)
        assert abs((factors == 0).mean() - p) < 5 * math.sqrt(p * (1 - p) / factors.size)
    assert np.array_equal(masks[0][1], masks[1][1])
    assert not np.array_equal(masks[0][1], masks[2][1])


def number(backend: Backend, factor: Scalar) -> float:
    return factor if isinstance(factor, float) else float(backend.on_host(factor)[0])


@pytest.mark.parametrize("poison", [math.nan, math.inf, -math.inf])
def test_what_limits_a_gradient_that_is_not_finite_is_not_a_number(
    backend: Backend, poison: float
) -> None:
    bench = Bench(backend, 0)
    g, wide = bench.real(3000)
    wide[2500] = poison
    backend.to_device(wide, g)
    for limit in (0.0, 1.0):
        assert math.isnan(number(backend, backend.clip_coefficient(g, limit)))


@random_shapes
@given(size=st.sampled_from([1, 3, 255, 257, 5000]), shrink=st.sampled_from([1.0, 0.9]))
def test_adam_and_weighted_means(backend: Backend, size: int, shrink: float) -> None:
    bench = Bench(backend, size)
    (w, wide_w), (g, wide_g), (m, wide_m) = (bench.real(size) for _ in range(3))
    v, wide_v = bench.real(size)
    backend.to_device(np.abs(wide_v), v)
    wide_v = np.abs(wide_v)
    step = AdamStep(0.5, 0.9, 0.99, 0.01, 1e-8, shrink)
    backend.adam(w, g, m, v, step)
    scaled = 0.5 * wide_g
    wide_m = 0.9 * wide_m + 0.1 * scaled
    wide_v = 0.99 * wide_v + 0.01 * scaled**2
    bench.close(m, wide_m)
    bench.close(v, wide_v)
    bench.close(w, shrink * wide_w - 0.01 * wide_m / (np.sqrt(wide_v) + 1e-8))
    for limit in (0.0, 0.25, 1e9):
        expected = min(1.0, limit / (np.linalg.norm(wide_g) + 1e-6)) if limit else 1.0
        scale = backend.clip_coefficient(g, limit)
        assert number(backend, scale) == pytest.approx(expected, rel=1e-6)
        backend.adam(w, g, m, v, step._replace(scale=scale))
        wide_m = 0.9 * wide_m + 0.1 * expected * wide_g
        bench.close(m, wide_m)
    vectors = [bench.real(size) for _ in range(3)]
    shares, out = [0.2, 0.3, 0.5], vectors[0][0]
    expected = sum(s * wide for s, (_, wide) in zip(shares, vectors, strict=True))
    backend.mean([vector for vector, _ in vectors], shares, out)
    bench.close(out, expected)
