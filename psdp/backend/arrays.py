"""Where arrays live, and the memory and sums that every kernel needs."""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Iterator, Sequence
from typing import Any, TypeVar

import numpy as np

from psdp.params import Array

Item = TypeVar("Item")

BF16 = np.dtype(np.uint16)
"""Stands for bfloat16, which NumPy has not: the upper half of a float32, as bits."""


class Arrays:
    """An array module, a dtype, and scratch memory; the ground floor of a backend.

    A subclass sets ``xp`` and the sizes of blocks, and overrides what its device does better.

    Attributes:
        name: "cpu" or "gpu".
        kernels: "numpy", "compiled", "cuda", or one of these and how it multiplies.
        xp: the array module, numpy or cupy.
        dtype: of weights, gradients, sums, and the residual stream.
        compute_dtype: of the operands of GEMMs, and so of activations between the layers of a
            branch; may be BF16.
        tile: elements of one operand that a chain of kernels handles at a time.
        query_block: queries that causal attention handles at a time.
        fuses_gelu: whether gelu after a product is best asked for with it.
        lanes: how much :meth:`side_by_side` does at a time.
    """

    name: str
    kernels: str
    xp: Any
    tile: int
    query_block: int
    fuses_gelu = False
    lanes = 1

    def __init__(self, dtype: str) -> None:
        self.dtype = self.compute_dtype = np.dtype(dtype)
        self._scratch: dict[int, Array] = {}
        self._ones = self.empty(0)
        self._causal_mask = self.empty(0, 0)

    # Arrays ---------------------------------------------------------------------------------

    def empty(self, *shape: int, dtype: Any = None) -> Array:
        """Return an uninitialised array on the device, of ``self.dtype`` unless told."""
        array: Array = self.xp.empty(shape, self.dtype if dtype is None else dtype)
        return array

    def zeros(self, *shape: int, dtype: Any = None) -> Array:
        """Return zeros on the device, of ``self.dtype`` unless told, to be kept for long."""
        array: Array = self.xp.zeros(shape, self.dtype if dtype is None else dtype)
        return array

    def scratch(self, index: int, *shape: int) -> Array:
        """Return uninitialised memory number ``index``, valid until its number is asked for again.

        It grows to the largest size ever asked for, so a steady state allocates nothing.
        """
        size = math.prod(shape)
        flat = self._scratch.get(index)
        if flat is None or flat.size < size:
            flat = self._scratch[index] = self.zeros(size)
        return flat[:size].reshape(shape)

    def ones(self, size: int) -> Array:
        """Return a vector of ones (size,); it is shared, so it must not be written."""
        if self._ones.size < size:
            self._ones = self.empty(size)
            self._ones[...] = 1
        return self._ones[:size]

    def causal_mask(self, size: int) -> Array:
        """Return (size, size): 0 where a key is not after its query, -inf where it is."""
        if self._causal_mask.shape[0] < size:
            self._causal_mask = self.empty(size, size)
            hidden = np.triu(np.full((size, size), -np.inf), k=1)
            self.to_device(hidden, self._causal_mask)
        return self._causal_mask[:size, :size]

    def blocks(self, rows: int, width: int) -> Iterator[slice]:
        """Cut ``rows`` rows of ``width`` elements into slices of at most a tile each."""
        step = max(1, self.tile // width)
        for start in range(0, rows, step):
            yield slice(start, min(start + step, rows))

    def copy(self, source: Array, out: Array) -> None:
        """Copy an array of the device into another one, of any strides, that it can be broadcast
        and cast to."""
        raise NotImplementedError

    def to_device(self, host: Array, out: Array) -> None:
        """Copy a NumPy array into a device array of the same shape."""
        raise NotImplementedError

    def pin(self, host: Array) -> bool:
        """Pin a NumPy vector that is copied to and from the device all the time, where there is
        something to pin; say whether :meth:`to_host_async` may copy to it.

        What is copied from it must stay as it is until the device has been waited for.
        """
        return False

    def to_host_async(self, device: Array, out: Array) -> None:
        """Copy a device array to a part of a pinned vector, asynchronously: beside the work that
        comes after, complete once the device has been waited for."""
        raise NotImplementedError

    def to_host(self, device: Array, out: Array) -> None:
        """Copy a device array into a NumPy array of the same shape; it is complete on return."""
        raise NotImplementedError

    def on_host(self, vector: Array) -> Array:
        """Return a device array as NumPy's: itself, or a copy."""
        return vector

    def synchronize(self) -> None:
        """Return when the device has done everything asked of it so far."""
        raise NotImplementedError

    def is_idle(self) -> bool:
        """Say whether the device has done everything asked of it so far."""
        return True

    def clear(self, out: Array) -> None:
        """Set ``out`` to zero."""
        out[...] = 0

    def cast(self, x: Array, out: Array) -> Array:
        """Return ``x`` in the compute dtype: itself, or cast into ``out``."""
        return x

    def widened(self, x: Array, room: Array) -> Array:
        """Return ``x`` itself, or if it is bfloat16 in ``room``, of its shape, as float32."""
        if x.dtype != BF16:
            return x
        bits = room.view(np.uint32)
        self.copy(x, bits)
        self.xp.left_shift(bits, 16, out=bits)
        return room

    def new_cast_weights(self, weights: Array) -> Array:
        """Return the vector that weights are cast into: ``weights`` (P,) itself where they are of
        the compute dtype, or a new one."""
        return weights

    def new_ids(self, count: int) -> Array:
        """Return room for ``count`` token ids; its first axis counts them, the rest is the
        backend's."""
        return self.empty(count, dtype=np.intp)

    def load_ids(self, host: Array, out: Array, *, ordered: bool = False) -> None:
        """Copy NumPy's token ids (N,) to such a room for as many; ``ordered`` if rows are to be
        added by them."""
        np.copyto(out, host)

    def seed(self, rng: np.random.Generator) -> None:
        """Take what this step's dropout masks are drawn from, where they are not drawn by
        ``rng`` itself."""

    def new_mask(self, size: int) -> Any:
        """Return what a dropout mask of up to ``size`` elements needs for itself."""
        return self.zeros(size)

    def run_captured(self, key: Hashable, step: Callable[[], None]) -> None:
        """Do a step, which may be captured as a graph and replayed without being called again: what
        it asks of this backend must depend on ``key`` and on what arrays hold alone."""
        step()

    def side_by_side(self, work: Callable[[int, Item], None], items: Sequence[Item]) -> None:
        """Do ``work(lane, item)`` for every item, begun in their order, on as many threads as
        kernels may use, each of which computes alone: the bits are those of one thread. No two have
        the same lane of range(lanes) at a time."""
        for item in items:
            work(0, item)

    def row_dots(self, a: Array, b: Array, out: Array) -> None:
        """Write the dot products of the rows of ``a`` and ``b``, (..., C), to ``out`` (...)."""
        raise NotImplementedError

    def softmax_parts(self, scores: Array, inverse_sums: Array) -> Array:
        """Turn ``scores`` (..., K) into e = exp(scores - max), write 1 / sum(e) (..., 1), and
        return the maxima (..., 1).

        Whoever uses e scales the (much smaller) result of the next product instead of e.
        """
        xp = self.xp
        largest: Array = xp.max(scores, axis=-1, keepdims=True)
        xp.subtract(scores, largest, out=scores)
        xp.exp(scores, out=scores)
        xp.matmul(scores, self.ones(scores.shape[-1])[:, None], out=inverse_sums)
        xp.reciprocal(inverse_sums, out=inverse_sums)
        return largest
