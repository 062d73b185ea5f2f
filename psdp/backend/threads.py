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
    return max(1, min(len(own), int(node_cores(neighbours, quota) / len(neighbours))))


def node_cores(ranks: Sequence[Sequence[int]], quota: float | None) -> float:
    """Return the cores' worth of time that the ranks of a node have together; see
    :func:`fair_share`."""
    cores = len({core for own in ranks for core in own})
    return cores if quota is None else min(cores, quota)


def limit_blas(threads: int) -> None:
    """Set the threads of every BLAS that is loaded, from now on."""
    threadpool_limits(limits=threads)
