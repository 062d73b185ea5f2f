"""Kernels equal plain formulas, over one block and over several, in both dtypes."""

from __future__ import annotations

import numpy as np
import pytest

from psdp.backend import Backend, make_backend

TOLERANCE = {"float32": 3e-6, "float64": 1e-13}


@pytest.fixture(params=["float32", "float64"])
def backend(request: pytest.FixtureRequest) -> Backend:
    backend = make_backend("cpu", request.param)
    backend.tile = 40  # several blocks, the last of them short
    return backend


def normal(backend: Backend, *shape: int) -> np.ndarray:
    return np.random.default_rng(2).standard_normal(shape).astype(backend.dtype)


def assert_close(got: np.ndarray, expected: np.ndarray, backend: Backend) -> None:
    assert got.dtype == backend.dtype
    tolerance = TOLERANCE[str(backend.dtype)]
    np.testing.assert_allclose(got, expected, rtol=10 * tolerance, atol=tolerance)


def test_gelu_and_its_derivative(backend: Backend) -> None:
    x = 3 * normal(backend, 33, 7)
    u, root = x.astype("float64"), np.sqrt(2 / np.pi)
    tanh = np.tanh(root * (u + 0.044715 * u**3))
    slope = 0.5 * (1 + tanh) + 0.5 * u * (1 - tanh**2) * root * (1 + 3 * 0.044715 * u**2)
    y = np.empty_like(x)
    backend.gelu(x, y)
    assert_close(y, 0.5 * u * (1 + tanh), backend)
    assert_close(x, slope, backend)


def test_gelu_far_from_zero_is_the_identity_or_zero(backend: Backend) -> None:
    x, y = np.array([[-1e4, -30.0, 30.0, 1e4]], backend.dtype), backend.empty(1, 4)
    backend.gelu(x, y)
    assert_close(y, np.array([[0, 0, 30, 1e4]]), backend)
    assert_close(x, np.array([[0, 0, 1, 1]]), backend)


def test_relu_and_its_derivative(backend: Backend) -> None:
    x, y = np.array([[-2.0, 0.0, 3.0]], backend.dtype), backend.empty(1, 3)
    backend.relu(x, y)
    assert y.tolist() == [[0, 0, 3]]
    assert x.tolist() == [[0, 0, 1]]


def test_layer_norm(backend: Backend) -> None:
    x, gain, bias = 4 + normal(backend, 21, 8), normal(backend, 8), normal(backend, 8) + 1
    out, y, rstd = backend.empty(21, 8), backend.empty(21, 8), backend.empty(21)
    backend.layer_norm(x, gain, bias, out, rstd, y)
    wide = x.astype("float64")
    std = np.sqrt(wide.var(axis=1) + 1e-5)
    expected = (wide - wide.mean(axis=1, keepdims=True)) / std[:, None]
    assert_close(rstd, 1 / std, backend)
    assert_close(out, expected, backend)
    assert_close(y, expected * gain + bias, backend)


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
    backend.cross_entropy(logits, targets, losses)
    assert_close(losses, -log_p[np.arange(6), targets], backend)
    assert_close(logits, np.exp(log_p) - np.eye(5)[targets], backend)


def test_sums_over_rows_and_columns(backend: Backend) -> None:
    a, b = normal(backend, 30, 6), normal(backend, 30, 6) + 1
    sums, dots = np.ones(6, backend.dtype), backend.empty(30)
    backend.add_column_sums(a, sums)
    backend.row_dots(a, b, dots)
    assert_close(sums, 1 + a.astype("float64").sum(axis=0), backend)
    assert_close(dots, (a.astype("float64") * b).sum(axis=1), backend)


@pytest.mark.parametrize(
    "ids", [[2, 0, 2, 2, 7, 0], [5] * 6, [0, 1, 2, 3, 4, 5], [3, 3, 7, 7, 0, 9]]
)
def test_rows_are_added_to_the_rows_that_ids_name(backend: Backend, ids: list[int]) -> None:
    rows, table = normal(backend, 6, 9), np.ones((10, 9), backend.dtype)
    expected = np.ones((10, 9))
    np.add.at(expected, ids, rows)
    backend.add_rows(np.array(ids), rows, table)
    assert_close(table, expected, backend)


def test_rows_are_taken(backend: Backend) -> None:
    table, out = normal(backend, 10, 9), backend.empty(3, 9)
    backend.take_rows(table, np.array([4, 0, 4]), out)
    assert np.array_equal(out, table[[4, 0, 4]])


def test_dropout_mask_is_drawn_from_the_generator(backend: Backend) -> None:
    masks = [backend.empty(20_000) for _ in range(2)]
    for mask in masks:
        backend.dropout_mask(np.random.default_rng(4), 0.25, mask)
    assert np.array_equal(*masks)
    assert_close(np.unique(masks[0]), np.array([0, 1 / 0.75]), backend)
    assert abs((masks[0] == 0).mean() - 0.25) < 5 * np.sqrt(0.25 * 0.75 / 20_000)


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
