"""Kernels equal plain formulas in float64, whoever runs them: NumPy over several blocks, in both
dtypes, and the compiled ones, on one thread and on three."""

from __future__ import annotations

import ast
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from processors import needs_avx512, needs_bf16

import psdp.backend.cpu._native as native
from psdp.backend import AdamStep, Backend, make_backend
from psdp.backend.cpu.compiled import CompiledBackend, bf16_here
from psdp.backend.kernels.attention import causal_blocks

TOLERANCE = {"float32": 3e-6, "float64": 1e-13}


@pytest.fixture(params=["numpy float32", "numpy float64", "compiled 1", "compiled 3"])
def backend(request: pytest.FixtureRequest) -> Backend:
    kernels, detail = request.param.split()
    if kernels == "compiled":
        return make_backend("cpu", "float32", kernels=kernels, threads=int(detail))
    backend = make_backend("cpu", detail, kernels=kernels)
    backend.tile = 40  # several blocks, the last of them short
    return backend


def normal(backend: Backend, *shape: int) -> np.ndarray:
    return np.random.default_rng(2).standard_normal(shape).astype(backend.dtype)


def assert_close(got: np.ndarray, expected: np.ndarray, backend: Backend) -> None:
    assert got.dtype == backend.dtype
    tolerance = TOLERANCE[str(backend.dtype)]
    np.testing.assert_allclose(got, expected, rtol=10 * tolerance, atol=tolerance)


def test_gelu_and_its_derivative(backend: Backend) -> None:
    x = 3 * normal(backend, 9000, 7)
    u, root = x.astype("float64"), np.sqrt(2 / np.pi)
    tanh = np.tanh(root * (u + 0.044715 * u**3))
    slope = 0.5 * (1 + tanh) + 0.5 * u * (1 - tanh**2) * root * (1 + 3 * 0.044715 * u**2)
    y, dy = np.empty_like(x), normal(backend, 9000, 7)
    expected = dy * slope
    backend.gelu(x, y)
    backend.gelu_backward(x, dy)
    assert_close(y, 0.5 * u * (1 + tanh), backend)
    assert_close(dy, expected, backend)
    assert_close(x, 0.5 * u * (1 + tanh), backend)


def test_gelu_far_from_zero_is_the_identity_or_zero(backend: Backend) -> None:
    x = np.array([[-1e12, -1e4, -30.0, 30.0, 1e4, 1e12]], backend.dtype)
    y, dy = backend.empty(1, 6), np.ones((1, 6), backend.dtype)
    backend.gelu(x, y)
    backend.gelu_backward(x, dy)
    assert_close(y, np.array([[0, 0, 0, 30, 1e4, 1e12]]), backend)
    assert_close(dy, np.array([[0, 0, 0, 1, 1, 1]]), backend)


def test_relu_and_its_derivative(backend: Backend) -> None:
    x, y = np.array([[-2.0, 0.0, 3.0]], backend.dtype), backend.empty(1, 3)
    dy = np.array([[5.0, 6.0, 7.0]], backend.dtype)
    backend.relu(x, y)
    backend.relu_backward(x, dy)
    assert y.tolist() == [[0, 0, 3]]
    assert dy.tolist() == [[0, 0, 7]]
    assert x.tolist() == y.tolist()


@pytest.mark.parametrize("poison", [np.nan, np.inf])
def test_nan_and_inf_are_not_swallowed(backend: Backend, poison: float) -> None:
    x = np.array([[poison, 1.0, 2.0]], backend.dtype)
    y, normal_, rstd, losses = (backend.empty(*s) for s in ((1, 3), (1, 3), (1,), (1,)))
    with np.errstate(all="ignore"):
        backend.gelu(x, y)
        assert not np.isfinite(y[0, 0])
        backend.layer_norm(x, np.ones(3, x.dtype), None, 1e-5, normal_, rstd, y)
        assert not np.isfinite(y).any()
        backend.cross_entropy(x, np.array([1]), 1.0, losses)
        assert not np.isfinite(losses).any()


def test_layer_norm(backend: Backend) -> None:
    x, gain, bias = 4 + normal(backend, 21, 8), normal(backend, 8), normal(backend, 8) + 1
    out, y, rstd = backend.empty(21, 8), backend.empty(21, 8), backend.empty(21)
    backend.layer_norm(x, gain, bias, 1e-5, out, rstd, y)
    wide = x.astype("float64")
    std = np.sqrt(wide.var(axis=1) + 1e-5)
    expected = (wide - wide.mean(axis=1, keepdims=True)) / std[:, None]
    assert_close(rstd, 1 / std, backend)
    assert_close(out, expected, backend)
    assert_close(y, expected * gain + bias, backend)
    backend.layer_norm(x, gain, None, 1e-5, out, rstd, y)
    assert_close(y, expected * gain, backend)


@pytest.mark.parametrize("rows", [1, 21, 9000])
def test_layer_norm_backward(backend: Backend, rows: int) -> None:
    dy, normal_, dx = (normal(backend, rows, 8) for _ in range(3))
    gain, rstd = normal(backend, 8), 1 + normal(backend, rows) ** 2
    dgain, dbias = normal(backend, 8), normal(backend, 8)
    g = (dy * gain).astype("float64")
    mean, slope = g.mean(axis=1), (g * normal_).mean(axis=1)
    expected = dx + rstd[:, None] * (g - mean[:, None] - normal_ * slope[:, None])
    expected_dgain = dgain + (dy.astype("float64") * normal_).sum(axis=0)
    expected_dbias = dbias + dy.astype("float64").sum(axis=0)
    without_bias, unused = dx.copy(), dgain.copy()
    backend.layer_norm_backward(dy.copy(), gain, normal_, rstd, dx, dgain, dbias)
    assert_close(dx, expected, backend)
    atol = 1e-5 * np.sqrt(rows)
    np.testing.assert_allclose(dgain, expected_dgain, rtol=1e-5, atol=atol)
    np.testing.assert_allclose(dbias, expected_dbias, rtol=1e-5, atol=atol)
    backend.layer_norm_backward(dy.copy(), gain, normal_, rstd, without_bias, unused, None)
    np.testing.assert_array_equal(without_bias, dx)


@pytest.mark.parametrize("rows", [1, 21, 9000])
def test_rms_norm_and_its_gradients(backend: Backend, rows: int) -> None:
    x, dy, dx = (normal(backend, rows, 8) for _ in range(3))
    gain, dgain = normal(backend, 8) + 1, normal(backend, 8)
    wide = x.astype("float64")
    factor = 1 / np.sqrt((wide**2).mean(axis=1) + 0.1)
    normal_ = wide * factor[:, None]
    g = dy.astype("float64") * gain
    slope = (g * normal_).mean(axis=1)
    expected = dx + factor[:, None] * (g - normal_ * slope[:, None])
    expected_dgain = dgain + (dy.astype("float64") * normal_).sum(axis=0)
    out, y, rstd = backend.empty(rows, 8), backend.empty(rows, 8), backend.empty(rows)
    backend.rms_norm(x, gain, 0.1, out, rstd, y)
    assert_close(rstd, factor, backend)
    assert_close(out, normal_, backend)
    assert_close(y, normal_ * gain, backend)
    backend.rms_norm_backward(dy, gain, out, rstd, dx, dgain)
    assert_close(dx, expected, backend)
    atol = 1e-5 * np.sqrt(rows)
    np.testing.assert_allclose(dgain, expected_dgain, rtol=1e-5, atol=atol)


@pytest.mark.parametrize("name", ["swiglu", "geglu"])
def test_gates_over_many_rows(backend: Backend, name: str) -> None:
    x, y, dy = normal(backend, 9000, 14), backend.empty(9000, 7), normal(backend, 9000, 7)
    wide = torch.from_numpy(x.astype("float64")).requires_grad_()
    gate, values = wide.chunk(2, dim=1)
    functional = torch.nn.functional
    activated = {"swiglu": functional.silu, "geglu": partial(functional.gelu, approximate="tanh")}
    expected = activated[name](gate) * values
    expected.backward(torch.from_numpy(dy.astype("float64")))
    getattr(backend, name)(x, y)
    assert_close(y, expected.detach().numpy(), backend)
    getattr(backend, f"{name}_backward")(x, dy)
    assert wide.grad is not None
    assert_close(x, wide.grad.numpy(), backend)
    assert_close(dy, expected.detach().numpy(), backend)


def test_softmax_parts_survive_large_scores(backend: Backend) -> None:
    scores = normal(backend, 3, 5, 9) + 1000
    scores[..., -1] = -np.inf
    shifted = scores.astype("float64")
    shifted = np.exp(shifted - shifted.max(axis=-1, keepdims=True))
    inverse_sums = backend.empty(3, 5, 1)
    backend.softmax_parts(scores, inverse_sums)
    assert_close(scores * inverse_sums, shifted / shifted.sum(axis=-1, keepdims=True), backend)
    assert not scores[..., -1].any()


def test_cross_entropy_and_its_gradient(backend: Backend) -> None:
    logits, targets = 50 * normal(backend, 6, 5), np.array([0, 4, 2, 2, 1, 3])
    wide = logits.astype("float64")
    wide -= wide.max(axis=1, keepdims=True)
    log_p = wide - np.log(np.exp(wide).sum(axis=1, keepdims=True))
    losses = backend.empty(6)
    backend.cross_entropy(logits, targets, 0.25, losses)
    assert_close(losses, -log_p[np.arange(6), targets], backend)
    assert_close(logits, (np.exp(log_p) - np.eye(5)[targets]) / 4, backend)


def attention(qkv: np.ndarray, batch: int, heads: int, mask: np.ndarray | None) -> torch.Tensor:
    """Return attention of qkv (N, 3C) as PyTorch derives it; qkv keeps its gradient."""
    count, width = qkv.shape[0], qkv.shape[1] // 3
    rows = qkv.view(batch, -1, 3, heads, width // heads).permute(2, 0, 3, 1, 4)
    q, k, v = rows[0], rows[1], rows[2]
    future = torch.ones(q.shape[2], q.shape[2], dtype=torch.bool).triu(1)
    scores = (q @ k.transpose(2, 3) / np.sqrt(q.shape[3])).masked_fill(future, -np.inf)
    weights = scores.softmax(dim=-1)
    if mask is not None:
        weights = weights * torch.from_numpy(mask)
    return (weights @ v).transpose(1, 2).reshape(count, width)


@settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    batch=st.integers(1, 3),
    heads=st.integers(1, 3),
    length=st.sampled_from([1, 2, 7, 9, 15, 24, 25, 49, 130]),
    head_size=st.sampled_from([1, 3, 8, 16, 17, 32, 40, 256]),
    dropped=st.booleans(),
)
def test_attention_and_its_gradient(
    backend: Backend, batch: int, heads: int, length: int, head_size: int, dropped: bool
) -> None:
    count, width = batch * length, heads * head_size
    qkv, dout = normal(backend, count, 3 * width), normal(backend, count, width)
    mask, square = None, None
    if dropped:
        mask, square = dropout_mask(backend, batch, heads, length)
    wide = torch.from_numpy(qkv.astype("float64")).requires_grad_()
    expected = attention(wide, batch, heads, square)
    expected.backward(torch.from_numpy(dout.astype("float64")))
    out, dqkv = backend.empty(count, width), backend.empty(count, 3 * width)
    logsumexp = backend.empty(batch, heads, length)
    backend.attention(qkv, batch, heads, mask, out, logsumexp)
    backend.attention_backward(qkv, batch, heads, mask, out, logsumexp, dout, dqkv)
    assert_close(out, expected.detach().numpy(), backend)
    assert wide.grad is not None
    tolerance = 1e-4 if backend.dtype == np.float32 else 1e-12
    np.testing.assert_allclose(dqkv, wide.grad.numpy(), rtol=tolerance, atol=tolerance)


def dropout_mask(
    backend: Backend, batch: int, heads: int, length: int
) -> tuple[np.ndarray, np.ndarray]:
    """Return a mask as kernels take it, and the same as (batch, heads, length, length)."""
    square = np.random.default_rng(5).integers(0, 2, (batch, heads, length, length)) / 0.5
    mask = [
        square[:, :, queries, keys].reshape(-1)
        for queries, keys, _ in causal_blocks(batch * heads, length, backend.query_block)
    ]
    return np.concatenate(mask).astype(backend.dtype), square


def test_attention_survives_large_scores(backend: Backend) -> None:
    qkv = 100 * normal(backend, 30, 12)
    out, logsumexp = backend.empty(30, 4), backend.empty(1, 1, 30)
    backend.attention(qkv, 1, 1, None, out, logsumexp)
    expected = attention(torch.from_numpy(qkv.astype("float64")), 1, 1, None).numpy()
    np.testing.assert_allclose(out, expected, rtol=1e-2, atol=1e-2)


@pytest.mark.parametrize("rows", [1, 5, 9001])
def test_products_and_biases(backend: Backend, rows: int) -> None:
    x, weight, bias = normal(backend, rows, 6), normal(backend, 6, 5), normal(backend, 5)
    wide = x.astype("float64")
    y = backend.empty(rows, 5)
    backend.matmul(x, weight, y)
    assert_close(y, wide @ weight, backend)
    backend.affine(x, weight, bias, y)
    assert_close(y, wide @ weight + bias, backend)
    backend.affine(x, weight, None, y)
    assert_close(y, wide @ weight, backend)
    backend.add_bias(bias, y)
    assert_close(y, wide @ weight + bias, backend)
    backend.add_matmul(x, weight, y)
    assert_close(y, 2 * (wide @ weight) + bias, backend)
    total = np.ones((6, 5), backend.dtype)
    backend.add_matmul(x.T, y, total)
    expected = 1 + wide.T @ y.astype("float64")
    np.testing.assert_allclose(total, expected, rtol=1e-5, atol=1e-5 * rows)
    gram = backend.empty(6, 6)
    backend.symmetric_matmul(x.T, x, gram)
    np.testing.assert_allclose(gram, wide.T @ wide, rtol=1e-5, atol=1e-5 * rows)
    back = np.ones((rows, 6), backend.dtype)
    backend.add_matmul(y, weight.T, back)
    np.testing.assert_allclose(back, 1 + y.astype("float64") @ weight.T, rtol=1e-5, atol=1e-5)


def test_sums_over_rows_and_columns(backend: Backend) -> None:
    a, b = normal(backend, 30, 6), normal(backend, 30, 6) + 1
    dots = backend.empty(30)
    for many in (normal(backend, 30, 6), normal(backend, 40_003, 5)):
        sums = np.ones(many.shape[1], backend.dtype)
        backend.add_column_sums(many, sums)
        expected = 1 + many.astype("float64").sum(axis=0)
        np.testing.assert_allclose(sums, expected, rtol=1e-5, atol=2e-3)
    backend.row_dots(a, b, dots)
    assert_close(dots, (a.astype("float64") * b).sum(axis=1), backend)


def test_blocks_cover_every_row_once(backend: Backend) -> None:
    for rows, width in [(0, 3), (1, 3), (13, 3), (14, 3), (5, 41)]:
        taken = [i for block in backend.blocks(rows, width) for i in range(rows)[block]]
        assert taken == list(range(rows))


def test_scratch_is_reused_and_grows(backend: Backend) -> None:
    first = backend.scratch(0, 4, 5)
    assert np.shares_memory(first, backend.scratch(0, 3))
    assert not np.shares_memory(first, backend.scratch(1, 3))
    assert backend.scratch(0, 100).shape == (100,)
    assert backend.ones(5).tolist() == [1] * 5
    assert backend.ones(3).tolist() == [1] * 3


def test_compiled_kernels_refuse_arrays_that_do_not_fit() -> None:
    backend = make_backend("cpu", "float32", kernels="compiled")
    x = np.zeros((4, 3), np.float32)
    with pytest.raises(ValueError, match="12 elements or more, got type 'f' with 24 bytes"):
        backend.gelu(x, np.zeros((2, 3), np.float32))
    with pytest.raises(ValueError, match=r"type 'f' .* got type 'd'"):
        backend.gelu(x, np.zeros((4, 3)))
    with pytest.raises(ValueError, match="not C-contiguous"):
        backend.gelu(x, np.zeros((3, 4), np.float32).T)
    with pytest.raises(IndexError, match="target 3 is outside of 3 logits"):
        backend.cross_entropy(x, np.array([0, 1, 2, 3]), 1.0, np.zeros(4, np.float32))
    with pytest.raises(
        ValueError, match="2 sequences of 4 tokens in all, each 3 x 3 heads, got 12"
    ):
        backend.attention(x, 2, 3, None, x, x)
    with pytest.raises(ValueError, match="16 elements or more, got type 'f' with 4 bytes"):
        backend.attention(x, 1, 1, np.zeros(1, np.float32), x, x)
    with pytest.raises(ValueError, match="as many heads for each of 2, got 3"):
        backend.repeat_heads(np.zeros((1, 7), "f4"), 3, 2, np.zeros((1, 9), "f4"))
    with pytest.raises(ValueError, match="heads of 4 channels or more, got 1"):
        backend.rotate(x, 1, 1, np.zeros((4, 2), np.float32), np.zeros((4, 2), np.float32), 1)
    x.flags.writeable = False
    with pytest.raises(ValueError, match="read-only"):
        backend.gelu_backward(x, x)


def test_adam_scales_a_gradient_that_is_too_large_to_be_squared(backend: Backend) -> None:
    w, g, mean, mean_sq = (np.zeros(3, backend.dtype) for _ in range(4))
    g[:] = 1e25
    step = AdamStep(1e-25, 0.9, 0.99, 0.01, 1e-8, 1.0)
    backend.adam(w, g, mean, mean_sq, step)
    assert_close(mean_sq, np.full(3, 0.01), backend)


@pytest.mark.parametrize("size", [1, 31, 200_003])
def test_adam(backend: Backend, size: int) -> None:
    w, g, mean = (normal(backend, size) for _ in range(3))
    mean_sq = normal(backend, size) ** 2
    wide = [array.astype("float64") for array in (w, g, mean, mean_sq)]
    backend.adam(w, g, mean, mean_sq, AdamStep(0.5, 0.9, 0.99, 0.01, 1e-8, 0.999))
    expected_mean = 0.9 * wide[2] + 0.1 * 0.5 * wide[1]
    expected_mean_sq = 0.99 * wide[3] + 0.01 * (0.5 * wide[1]) ** 2
    expected = 0.999 * wide[0] - 0.01 * expected_mean / (np.sqrt(expected_mean_sq) + 1e-8)
    assert_close(mean, expected_mean, backend)
    assert_close(mean_sq, expected_mean_sq, backend)
    assert_close(w, expected, backend)


def rounded(x: np.ndarray) -> np.ndarray:
    """Return x (float32) rounded to bfloat16, to nearest and then to even, as float64."""
    return torch.from_numpy(x).to(torch.bfloat16).to(torch.float64).numpy()


@settings(max_examples=150, deadline=None)
@given(
    m=st.integers(1, 70),
    n=st.integers(1, 110) | st.just(1600),
    k=st.integers(1, 90) | st.integers(1020, 1030),
    transposed=st.tuples(st.booleans(), st.booleans()),
    end=st.sampled_from(["write", "bias", "add"]),
    threads=st.sampled_from([1, 3]),
    bf16=st.booleans() if bf16_here() else st.just(False),
)
@needs_avx512
def test_own_products_of_any_shape(
    m: int, n: int, k: int, transposed: tuple[bool, bool], end: str, threads: int, bf16: bool
) -> None:
    backend = CompiledBackend(threads, bf16=bf16)
    a, b, bias = normal(backend, m, k), normal(backend, k, n), normal(backend, n)
    out = normal(backend, m, n)
    factors = (rounded(a), rounded(b)) if bf16 else (a.astype("float64"), b.astype("float64"))
    expected = factors[0] @ factors[1] + {"write": 0, "bias": bias, "add": out}[end]
    if transposed[0]:
        a = np.ascontiguousarray(a.T).T
    if transposed[1]:
        b = np.ascontiguousarray(b.T).T
    match end:
        case "write":
            backend.matmul(a, b, out)
        case "bias":
            backend.affine(a, b, bias, out)
        case "add":
            backend.add_matmul(a, b, out)
    np.testing.assert_allclose(out, expected, rtol=1e-5, atol=1e-5 * np.sqrt(k))


@needs_avx512
def test_a_product_has_the_same_bits_on_any_number_of_threads() -> None:
    a, b = np.random.default_rng(2).standard_normal((2, 300, 700)).astype("f4")
    whole, halved = ([np.empty((300, 300), "f4") for _ in range(3)] for _ in range(2))
    for threads in range(3):
        backend = CompiledBackend(threads + 1)
        backend.matmul(a, b.T, whole[threads])
        backend.symmetric_matmul(a, a.T, halved[threads])
    for results in (whole, halved):
        assert np.array_equal(results[0], results[1])
        assert np.array_equal(results[0], results[2])


@needs_avx512
def test_half_of_a_symmetric_product_is_that_of_the_whole_and_the_other_its_mirror() -> None:
    for threads, rows, width in ((1, 1, 1), (1, 47, 5), (2, 300, 700), (3, 1600, 40)):
        backend = CompiledBackend(threads)
        a, whole = normal(backend, rows, width), backend.empty(rows, rows)
        halved = np.full_like(whole, np.nan)
        backend.matmul(a, a.T, whole)
        backend.symmetric_matmul(a, a.T, halved)
        assert np.array_equal(np.triu(halved), np.triu(whole))
        assert np.array_equal(halved, halved.T)
    with pytest.raises(ValueError, match="square"):
        backend.symmetric_matmul(a, a.T[:, :5], backend.empty(rows, 5))


@needs_avx512
def test_threads_that_come_and_go_leave_no_memory_behind() -> None:
    backend = CompiledBackend(4)
    shapes = [(64, 64, 600), (512, 512, 256), (128, 40, 300)]  # of one part, of two, of four
    rounds = [(np.ones((m, k), "f4"), np.ones((k, n), "f4")) for m, n, k in shapes]
    sizes = []
    for _ in range(60):
        for a, b in rounds:
            backend.matmul(a, b, backend.empty(a.shape[0], b.shape[1]))
        status = Path("/proc/self/status").read_text()
        sizes.append(int(status.partition("VmRSS:")[2].split()[0]))
    assert sizes[-1] - sizes[5] < 16 * 1024, "kB"


def test_without_avx512_products_are_those_of_blas(
    backend: Backend, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("psdp.backend.cpu.compiled.SUPPORT", 0)
    test_products_and_biases(backend, 37)
    monkeypatch.setattr("psdp.backend.cpu.compiled.SGEMM", None)
    test_products_and_biases(backend, 37)


@needs_bf16
def test_bf16_products_let_nan_and_inf_through() -> None:
    backend = CompiledBackend(bf16=True)
    a = np.array([[np.nan, 1], [np.inf, 1], [1, 1]], np.float32)
    out = np.empty((3, 2), np.float32)
    backend.matmul(a, np.ones((2, 2), np.float32), out)
    assert np.isnan(out[0]).all()
    assert np.isinf(out[1]).all()
    assert out[2].tolist() == [2, 2]


def test_the_stub_names_what_the_module_offers() -> None:
    stub = ast.parse(Path(native.__file__).with_name("_native.pyi").read_text("utf-8"))
    named = {node.name for node in stub.body if isinstance(node, ast.FunctionDef)}
    assert named == {name for name in vars(native) if not name.startswith("_")}
