"""How many threads a rank may compute with: the cores of its node, shared by the node's ranks."""

from __future__ import annotations

from collections.abc import Sequence

from threadpoolctl import threadpool_limits


def fair_share(own: Sequence[int], neighbours: Sequence[Sequence[int]], quota: float | None) -> int:
    """Return the threads for one rank, at least 1.

    Args:
        own: cores this rank may use.
        neighbours: cores each rank of the node may use, this one's among them.
        quota: cores' worth of time that the node's ranks have together, where that is limited;
            threads beyond it would only hold one another up.
    """
    node: float = len({core for cores in neighbours for core in cores})
    if quota is not None:
        node = min(node, quota)
    return max(1, min(len(own), int(node / len(neighbours))))


def limit_blas(threads: int) -> None:
    """Set the threads of every BLAS that is loaded, from now on."""
    threadpool_limits(limits=threads)
