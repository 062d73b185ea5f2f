"""What a kernel costs: the arithmetic of its products, and the bytes that it moves.

A kernel says so where it is declared, with :func:`costs`; what counts kernels asks :data:`COSTS`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

Cost = Callable[..., tuple[float, int]]
"""Takes a kernel's arguments; returns the floating-point operations of its products (others count
as none), and the bytes of the arrays that it is handed, each once."""

COSTS: dict[str, Cost] = {}
"""The cost of every kernel, by its name."""

Kernel = TypeVar("Kernel", bound=Callable[..., Any])


def costs(cost: Cost) -> Callable[[Kernel], Kernel]:
    """Declare a kernel of a backend, whatever a device makes of it, with its cost."""

    def declare(kernel: Kernel) -> Kernel:
        COSTS[kernel.__name__] = cost
        return kernel

    return declare


def moves(*arguments: Any) -> tuple[float, int]:
    """Return the cost of a kernel without a product."""
    return 0.0, sum(int(getattr(argument, "nbytes", 0)) for argument in arguments)


def multiplies(a: Any, b: Any, *others: Any) -> tuple[float, int]:
    """Return the cost of a kernel that multiplies ``a`` (M, K) by ``b`` (K, N)."""
    return 2.0 * a.shape[0] * a.shape[1] * b.shape[1], moves(a, b, *others)[1]


def multiplies_half(a: Any, b: Any, *others: Any) -> tuple[float, int]:
    """Return the cost of a kernel that does so for a product that is symmetric, of which half is
    enough."""
    flops, traffic = multiplies(a, b, *others)
    return flops / 2, traffic
