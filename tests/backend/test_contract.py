"""What every backend promises, on random shapes, against plain formulas in float64.

NumPy's kernels, the compiled ones, and those of a GPU, which run on an emulated device here."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from emulated.bench import Bench, random_shapes, rows_and_width
from hypothesis import given
from hypothesis import strategies as st

from psdp.backend import Backend
from psdp.backend.costs import COSTS
from psdp.backend.cpu.compiled import CompiledBackend
from psdp.backend.cpu.numpy import NumpyBackend
from psdp.backend.gpu.backend import GpuBackend


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
def test_products_that_are_symmetric(backend: Backend, rows: int, width: int, seed: int) -> None:
    bench = Bench(backend, seed)
    x, wide = bench.real(rows, width)
    gram, turned = backend.empty(rows, rows), backend.empty(width, width)
    backend.symmetric_matmul(x, x.T, gram)
    bench.close(gram, wide @ wide.T, width)
    backend.symmetric_matmul(x.T, x, turned)
    bench.close(turned, wide.T @ wide, rows)
    square, cube = bench.wide(gram), backend.empty(rows, rows)
    backend.symmetric_matmul(gram, gram.T, turned := backend.empty(rows, rows))
    backend.symmetric_matmul(gram, turned, cube)
    expected = square @ square @ square
    error = np.linalg.norm(bench.wide(cube) - expected)
    assert error <= bench.tolerance * np.linalg.norm(expected)


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


ACTIVATIONS: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "gelu": lambda x: torch.nn.functional.gelu(x, approximate="tanh"),
    "gelu_erf": torch.nn.functional.gelu,
    "relu": torch.relu,
    "relu2": lambda x: torch.relu(x).square(),
}


@random_shapes
@rows_and_width
def test_activations(backend: Backend, rows: int, width: int, seed: int) -> None:
    bench = Bench(backend, seed)
    for activation, formula in ACTIVATIONS.items():
        (x, wide), (dy, wide_dy) = bench.branch(rows, width), bench.branch(rows, width)
        tensor = torch.from_numpy(wide).requires_grad_()
        expected = formula(tensor)
        expected.backward(torch.from_numpy(wide_dy))
        assert tensor.grad is not None
        y = bench.room(rows, width)
        getattr(backend, activation)(x, y)
        bench.close(y, expected.detach().numpy())
        getattr(backend, f"{activation}_backward")(x, dy)
        bench.close(dy, tensor.grad.numpy())
        bench.close(x, expected.detach().numpy())


GATES: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "swiglu": torch.nn.functional.silu,
    "geglu": ACTIVATIONS["gelu"],
}


@random_shapes
@rows_and_width
def test_gates(backend: Backend, rows: int, width: int, seed: int) -> None:
    bench = Bench(backend, seed)
    for name, activation in GATES.items():
        (x, wide), (dy, wide_dy) = bench.branch(rows, 2 * width), bench.branch(rows, width)
        tensor = torch.from_numpy(wide).requires_grad_()
        gate, values = tensor.chunk(2, dim=1)
        expected = activation(gate) * values
        expected.backward(torch.from_numpy(wide_dy))
        assert tensor.grad is not None
        y = bench.room(rows, width)
        getattr(backend, name)(x, y)
        bench.close(y, expected.detach().numpy())
        getattr(backend, f"{name}_backward")(x, dy)
        bench.close(x, tensor.grad.numpy())
        bench.close(dy, expected.detach().numpy())


@pytest.mark.parametrize("name", GATES)
def test_a_gate_far_from_zero_is_open_or_shut_and_nan_comes_through(
    backend: Backend, name: str
) -> None:
    bench = Bench(backend, 0)
    gates = np.array([math.nan, -1e12, -1e4, -200.0, 200.0, 1e4, 1e12])
    real = backend.empty(1, 14)
    backend.to_device(np.concatenate([gates, np.ones(7)])[None], real)
    x = backend.cast(real, bench.room(1, 14))
    y, (dy, _) = bench.room(1, 7), bench.branch(1, 7)
    getattr(backend, name)(x, y)
    assert math.isnan(bench.wide(y)[0, 0])
    assert np.array_equal(bench.wide(y)[0, 1:4].round(6), [0, 0, 0])
    assert np.array_equal(bench.wide(y)[:, 4:], bench.wide(x)[:, 4:7])
    getattr(backend, f"{name}_backward")(x, dy)
    assert np.isfinite(bench.wide(x)[0, 1:7]).all()
    assert math.isnan(bench.wide(x)[0, 0])


def test_nan_comes_through_activations_and_large_inputs_do_not_become_nan(
    backend: Backend,
) -> None:
    bench = Bench(backend, 0)
    values = np.array([[math.nan, -1e12, -1e4, -30.0, 0.0, 30.0, 1e4, 1e12]])
    real = backend.empty(1, 8)
    for activation in ACTIVATIONS:
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
    backend.layer_norm(x, gain, bias, 1e-5, normal, rstd, y)
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


@random_shapes
@rows_and_width
def test_rms_norm_and_its_gradients(backend: Backend, rows: int, width: int, seed: int) -> None:
    bench = Bench(backend, seed)
    (x, wide), (dy, wide_dy), (gain, wide_gain) = (
        *(bench.real(rows, width), bench.branch(rows, width)),
        bench.real(width),
    )
    tensors = [torch.from_numpy(a).requires_grad_() for a in (wide, wide_gain)]
    expected = torch.nn.functional.rms_norm(tensors[0], (width,), tensors[1], eps=0.1)
    expected.backward(torch.from_numpy(wide_dy))
    normal, rstd, y = bench.room(rows, width), backend.empty(rows), bench.room(rows, width)
    backend.rms_norm(x, gain, 0.1, normal, rstd, y)
    bench.close(y, expected.detach().numpy())
    bench.close(rstd, (np.square(wide).mean(axis=1) + 0.1) ** -0.5)
    (dx, before), (dgain, before_gain) = bench.real(rows, width), bench.real(width)
    backend.rms_norm_backward(dy, gain, normal, rstd, dx, dgain)
    # Rounded is what the sums are of, and some of it cancels.
    scale = 2.0**-5 if bench.half else 10 * bench.tolerance
    for got, had, tensor in ((dx, before, tensors[0]), (dgain, before_gain, tensors[1])):
        assert tensor.grad is not None
        expected_sum = had + tensor.grad.numpy()
        limit = scale * max(math.sqrt(rows), np.abs(expected_sum).max())
        np.testing.assert_allclose(bench.wide(got), expected_sum, atol=limit, rtol=0)


@pytest.mark.parametrize("eps", [1e-5, 1e-3])
def test_every_backend_adds_the_same_epsilon_to_a_variance(backend: Backend, eps: float) -> None:
    bench, values = Bench(backend, 0), np.tile([1e-3, -1e-3], (3, 8))
    x, rstd = backend.empty(3, 16), backend.empty(3)
    backend.to_device(values, x)
    gain, bias = bench.real(16)[0], bench.real(16)[0]
    backend.layer_norm(x, gain, bias, eps, bench.room(3, 16), rstd, bench.room(3, 16))
    bench.close(rstd, np.full(3, (1e-6 + eps) ** -0.5))


@random_shapes
@given(
    rows=st.sampled_from([1, 7, 130]),
    kv_heads=st.sampled_from([1, 2, 3]),
    group=st.sampled_from([1, 2, 5]),
    size=st.sampled_from([1, 8, 17]),
    seed=st.integers(0, 99),
)
def test_heads_are_repeated_and_their_gradients_summed(
    backend: Backend, rows: int, kv_heads: int, group: int, size: int, seed: int
) -> None:
    bench, heads = Bench(backend, seed), kv_heads * group
    packed, wide = bench.branch(rows, (heads + 2 * kv_heads) * size)
    qkv = bench.room(rows, 3 * heads * size)
    backend.repeat_heads(packed, heads, kv_heads, qkv)
    by_head = wide.reshape(rows, heads + 2 * kv_heads, size)
    queries, rest = by_head[:, :heads], by_head[:, heads:]
    expected = np.concatenate([queries, rest.repeat(group, axis=1)], axis=1)
    assert np.array_equal(bench.wide(qkv), expected.reshape(rows, -1))
    dqkv, wide = bench.branch(rows, 3 * heads * size)
    dpacked = bench.room(*packed.shape)
    backend.sum_heads(dqkv, heads, kv_heads, dpacked)
    queries, rest = wide[:, : heads * size], wide[:, heads * size :]
    sums = rest.reshape(rows, 2 * kv_heads, group, size).sum(axis=2)
    bench.close(dpacked, np.concatenate([queries, sums.reshape(rows, -1)], axis=1), group)


@random_shapes
@rows_and_width
def test_the_last_columns_are_added_to_and_taken(
    backend: Backend, rows: int, width: int, seed: int
) -> None:
    bench = Bench(backend, seed)
    (x, wide), (added, wide_added) = bench.branch(rows, width + 3), bench.real(rows, width)
    backend.add_to_last_columns(added, x)
    wide[:, 3:] += wide_added
    bench.close(x, wide)
    taken = backend.empty(rows, width)
    backend.take_last_columns(x, taken)
    assert np.array_equal(bench.wide(taken), bench.wide(x)[:, 3:])


@random_shapes
@rows_and_width
def test_capped_logits_and_their_gradient(
    backend: Backend, rows: int, width: int, seed: int
) -> None:
    bench = Bench(backend, seed)
    (x, wide), (dy, wide_dy) = bench.branch(rows, width), bench.branch(rows, width)
    backend.cap(x, 1.5)
    expected = 1.5 * np.tanh(wide / 1.5)
    bench.close(x, expected)
    slope = 1 - (bench.wide(x) / 1.5) ** 2
    backend.cap_backward(x, 1.5, dy)
    bench.close(dy, wide_dy * slope)


@random_shapes
@rows_and_width
def test_rows_are_scaled_each_by_its_own(
    backend: Backend, rows: int, width: int, seed: int
) -> None:
    bench = Bench(backend, seed)
    (x, wide), (factors, wide_factors) = bench.branch(rows, width), bench.real(rows)
    backend.scale_rows(x, factors)
    bench.close(x, wide * wide_factors[:, None])


@pytest.mark.parametrize("smoothing", [0.0, 0.3])
@random_shapes
@rows_and_width
def test_cross_entropy_its_gradient_and_the_argmax(
    backend: Backend, smoothing: float, rows: int, width: int, seed: int
) -> None:
    bench = Bench(backend, seed)
    logits, wide = bench.branch(rows, width)
    targets = bench.rng.integers(0, width, rows)
    tensor = torch.from_numpy(wide).requires_grad_()
    expected = torch.nn.functional.cross_entropy(
        tensor, torch.from_numpy(targets), reduction="none", label_smoothing=smoothing
    )
    (0.5 * expected.sum()).backward()
    losses, best = backend.empty(rows), backend.empty(rows, dtype=np.int32)
    backend.argmax(logits, best)
    assert np.array_equal(bench.wide(best), wide.argmax(axis=1))
    backend.cross_entropy(logits, bench.ids(targets), 0.5, losses, smoothing)
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
