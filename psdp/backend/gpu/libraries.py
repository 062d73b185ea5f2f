"""What a library may do in one kernel where psdp has several, or one that is slower.

Libraries are optional: a backend does the same without them.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import NamedTuple, Protocol, TypeVar

from psdp.params import Array

T = TypeVar("T")


class Unsupported(Exception):
    """A library does not do this; the text says why. Nothing was written."""


class AttentionShape(NamedTuple):
    """What causal attention is planned for: ``p`` is the probability that a weight is dropped."""

    batch: int
    heads: int
    length: int
    head: int
    p: float


class AttentionPlan(Protocol):
    """Attention of one shape, forward and backward, on bfloat16.

    Shapes: qkv, dqkv (N, 3C); out, dout (N, C); logsumexp (B, H, T) float32, which only the same
    plan reads; seed and offset (1,) int64, which name a dropout mask.

    Attributes:
        workspace_bytes: that both passes need for themselves.
    """

    workspace_bytes: int

    def forward(
        self, qkv: Array, out: Array, logsumexp: Array, seed: Array, offset: Array, workspace: Array
    ) -> None:
        """Write ``out`` and ``logsumexp``."""

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
        """Write ``dqkv``, the same bits each time."""


class FusedAttention(Protocol):
    """A library's attention."""

    name: str

    def plan(self, shape: AttentionShape) -> AttentionPlan:
        """
        Raises:
            Unsupported: it does not do this shape.
        """


class FusedGemm(Protocol):
    """A library's GEMMs, with an epilogue."""

    name: str

    def multiply(
        self,
        a: Array,
        b: Array,
        bias: Array | None,
        out: Array,
        *,
        add: bool = False,
        inner: Array | None = None,
    ) -> None:
        """Write ``a`` (M, K) times ``b`` (K, N) plus ``bias`` (N,) to ``out`` (M, N), or add it;
        or write it to ``inner`` (M, N), and its gelu to ``out``.

        ``a`` and ``b`` may be transposed views, and are of one format; ``bias`` is of out's.

        Raises:
            Unsupported: it does not do these shapes or formats.
        """


class Libraries(NamedTuple):
    """Those of a device."""

    attention: FusedAttention | None = None
    gemm: FusedGemm | None = None


NO_LIBRARIES = Libraries()


def opened(name: str, library: Callable[[], T]) -> T | None:
    """Return what opens a library; None if it is not installed, or cannot be used, of which it
    says why."""
    try:
        return library()
    except ModuleNotFoundError:
        return None
    except Exception as error:  # whatever it is, there are kernels that work
        say_unused(name, error)
        return None


def say_unused(name: str, why: Exception) -> None:
    """Say, in a line, why a library is not used."""
    text = f"psdp: {name} is not used ({type(why).__name__}: {first_line(why)})"
    print(text, file=sys.stderr, flush=True)


def first_line(error: Exception) -> str:
    """Return the first line of what an error says, if it says anything."""
    return (str(error).splitlines() or [""])[0]
