"""The matrix products of a training step alone: the floor under its time.

They are noted while a real step runs, with the very arrays that they read and write, so shapes,
transposed operands, sums into a result and the memory they are spread over are those of the step.
Attention, whose kernel may well be one piece of code, counts as the products of its blocks: of
128 queries, as BLAS likes them, and of as many heads as leave the weights in the cache.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
from training import PsdpTrainer, Side, Size, batches

from psdp.backend import Backend
from psdp.backend.kernels.attention import causal_blocks, merge_heads, split_heads
from psdp.params import Array

QUERIES = 128
TILE = 2**16
"""Weights of a block of attention: 256 KiB, half of a small second-level cache."""
TRIALS = 5


@dataclass(frozen=True)
class Product:
    """out = a b, or out += a b if it ``adds``; (M, K) times (K, N), or stacks of them in front."""

    a: Array
    b: Array
    out: Array
    adds: bool = False


@dataclass
class Products:
    """The products of a step in order, and the floating-point operations that the step needs them
    for: of attention, the causal half alone."""

    items: list[Product] = field(default_factory=list)
    flops: float = 0.0


@contextmanager
def recorded(backend: Backend) -> Iterator[Products]:
    """Note the products of all that is done with ``backend`` inside the ``with`` block."""
    products = Products()

    def note(a: Array, b: Array, out: Array, *, adds: bool) -> None:
        products.items.append(Product(a, b, out, adds))
        products.flops += 2.0 * a.shape[0] * a.shape[1] * b.shape[1]

    def note_affine(x: Array, weight: Array, bias: Array | None, y: Array) -> None:
        note(x, weight, y, adds=False)

    def note_attention(
        qkv: Array, batch: int, heads: int, mask: Array | None, out: Array, logsumexp: Array
    ) -> None:
        products.items += attention_products(backend, qkv, batch, heads, out)
        products.flops += 2 * _causal_flops(qkv, batch)

    def note_attention_backward(
        qkv: Array,
        batch: int,
        heads: int,
        mask: Array | None,
        out: Array,
        logsumexp: Array,
        dout: Array,
        dqkv: Array,
    ) -> None:
        products.items += attention_backward_products(backend, qkv, batch, heads, dout, dqkv)
        products.flops += 5 * _causal_flops(qkv, batch)

    notes: dict[str, Callable[..., None]] = {
        "matmul": partial(note, adds=False),
        "add_matmul": partial(note, adds=True),
        "affine": note_affine,
        "attention": note_attention,
        "attention_backward": note_attention_backward,
    }
    inside: list[str] = []
    for name in notes:
        setattr(backend, name, _noted(name, getattr(backend, name), notes[name], inside))
    try:
        yield products
    finally:
        for name in notes:
            delattr(backend, name)


def _noted(
    name: str, kernel: Callable[..., None], note: Callable[..., None], inside: list[str]
) -> Callable[..., None]:
    """Return the kernel with its calls noted; not those that another noted kernel makes."""

    def call(*arguments: Any) -> None:
        if not inside:
            note(*arguments)
        inside.append(name)
        try:
            kernel(*arguments)
        finally:
            inside.pop()

    return call


def _causal_flops(qkv: Array, batch: int) -> float:
    """Return the operations of one product over all pairs of a query and a key not after it."""
    count, width = qkv.shape[0], qkv.shape[1] // 3
    return float(width * count * (count // batch + 1))


def _blocks(batch: int, heads: int, length: int) -> Iterator[tuple[slice, slice, slice, slice]]:
    """Yield (sequences, heads, queries, keys) of each block of attention."""
    for queries, keys, _ in causal_blocks(batch * heads, length, QUERIES):
        pairs = max(1, TILE // ((queries.stop - queries.start) * keys.stop))
        sequences, some_heads = max(1, pairs // heads), min(pairs, heads)
        for sequence in range(0, batch, sequences):
            for head in range(0, heads, some_heads):
                yield (
                    slice(sequence, min(sequence + sequences, batch)),
                    slice(head, min(head + some_heads, heads)),
                    queries,
                    keys,
                )


def attention_products(
    backend: Backend, qkv: Array, batch: int, heads: int, out: Array
) -> list[Product]:
    """Return q k^T and (its softmax) v of each block; qkv (N, 3C), out (N, C)."""
    q, k, v = split_heads(qkv, batch, heads)
    outs = merge_heads(out, batch, heads)
    products = []
    for some, of, queries, keys in _blocks(batch, heads, q.shape[2]):
        qs, ks = q[some, of, queries], k[some, of, keys]
        weights = backend.scratch(0, *qs.shape[:3], ks.shape[2])
        products += [
            Product(qs, ks.swapaxes(2, 3), weights),
            Product(weights, v[some, of, keys], outs[some, of, queries]),
        ]
    return products


def attention_backward_products(
    backend: Backend, qkv: Array, batch: int, heads: int, dout: Array, dqkv: Array
) -> list[Product]:
    """Return q k^T again, and dL/d(weights), dL/dq, dL/dk and dL/dv of each block."""
    (q, k, v), (dq, dk, dv) = split_heads(qkv, batch, heads), split_heads(dqkv, batch, heads)
    douts = merge_heads(dout, batch, heads)
    products = []
    for some, of, queries, keys in _blocks(batch, heads, q.shape[2]):
        qs, ks, do = q[some, of, queries], k[some, of, keys], douts[some, of, queries]
        weights, dweights = (backend.scratch(i, *qs.shape[:3], ks.shape[2]) for i in range(2))
        products += [
            Product(qs, ks.swapaxes(2, 3), weights),
            Product(do, v[some, of, keys].swapaxes(2, 3), dweights),
            Product(dweights, ks, dq[some, of, queries]),
            Product(dweights.swapaxes(2, 3), qs, dk[some, of, keys]),
            Product(weights.swapaxes(2, 3), do, dv[some, of, keys]),
        ]
    return products


Replay = Callable[[], None]


def with_kernels(products: Sequence[Product], backend: Backend) -> Replay:
    """Return a replay with the backend's own product kernels, and NumPy for attention's blocks."""

    def replay() -> None:
        for product in products:
            if product.a.ndim > 2:
                np.matmul(product.a, product.b, out=product.out)
            elif product.adds:
                backend.add_matmul(product.a, product.b, product.out)
            else:
                backend.matmul(product.a, product.b, product.out)

    return replay


def with_numpy(products: Sequence[Product]) -> Replay:
    """Return a replay with NumPy's matmul alone, which adds to nothing: sums go to a scratch and
    are left there."""
    scratch = np.empty(max(product.out.size for product in products if product.adds), np.float32)
    pairs = []
    for product in products:
        out = product.out
        if product.adds:
            out = scratch[: out.size].reshape(out.shape)
        pairs.append((product.a, product.b, out))

    def replay() -> None:
        for a, b, out in pairs:
            np.matmul(a, b, out=out)

    return replay


def faster(
    replays: dict[str, Replay], now: Callable[[], float] = time.perf_counter
) -> tuple[str, Replay]:
    """Return the name and the replay of the one that is faster at its best of a few trials."""
    best: dict[str, float] = {}
    for _ in range(TRIALS):
        for name, replay in replays.items():
            begin = now()
            replay()
            best[name] = min(best.get(name, float("inf")), now() - begin)
    name = min(best, key=lambda name: best[name])
    return name, replays[name]


def products_side(size: Size, precision: str) -> Side:
    """Return the products of psdp's step as a side of their own; its losses mean nothing."""
    trainer, data = PsdpTrainer(size, precision), batches(size)
    trainer.step(*next(data))
    with recorded(trainer.backend) as products:
        trainer.step(*next(data))
    kernels, numpy = "the step's kernels", "NumPy"
    by, replay = faster(
        {
            kernels: with_kernels(products.items, trainer.backend),
            numpy: with_numpy(products.items),
        }
    )

    def step(_tokens: Array, _targets: Array) -> float:
        replay()
        return 0.0

    return Side(step, {"flops": products.flops, "by": by})
