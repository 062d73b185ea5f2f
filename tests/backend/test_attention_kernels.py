"""What every backend promises of attention, against PyTorch in float64, and of rotary positions."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from emulated.bench import Bench, random_shapes
from hypothesis import given, settings
from hypothesis import strategies as st

from psdp.backend import Backend
from psdp.backend.gpu.dropout import Mask
from psdp.backend.kernels.attention import causal_blocks
from psdp.params import Array


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
    whole=st.booleans(),
    seed=st.integers(0, 99),
)
def test_queries_and_keys_are_turned_and_turned_back(
    backend: Backend, batch: int, heads: int, length: int, head: int, whole: bool, seed: int
) -> None:
    bench, half = Bench(backend, seed), head // 2 if whole else 1
    qkv, wide = bench.branch(batch * length, 3 * heads * head)
    angles = bench.rng.uniform(0, 6, (length, half))
    cos, sin = backend.empty(length, half), backend.empty(length, half)
    backend.to_device(np.cos(angles), cos)
    backend.to_device(np.sin(angles), sin)
    parts = wide.copy().reshape(batch, length, 3, heads, head)
    first, second = parts[:, :, :2, :, :half], parts[:, :, :2, :, half : 2 * half]
    turned = (first + 1j * second) * np.exp(1j * angles)[None, :, None, None, :]
    first[...], second[...] = turned.real, turned.imag
    backend.rotate(qkv, batch, heads, cos, sin, 1)
    bench.close(qkv, parts.reshape(wide.shape), 4)
    backend.rotate(qkv, batch, heads, cos, sin, -1)
    bench.close(qkv, wide, 8)
