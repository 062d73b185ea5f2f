"""How many threads a rank may compute with: the cores of its node, shared by the node's ranks."""

from __future__ import annotations

import os
from collections.abc import Sequence

from threadpoolctl import threadpool_limits


def own_cores() -> list[int]:
    """Return the cores this process may run on (fewer than the node's where MPI binds ranks)."""
    return sorted(os.sched_getaffinity(0))


def fair_share(own: Sequence[int], neighbours: Sequence[Sequence[int]]) -> int:
    """Return the threads for one rank, at least 1.

    Args:
        own: cores this rank may use.
        neighbours: cores each rank of the node may use, this one's among them.
    """
    node = {core for cores in neighbours for core in cores}
    return max(1, min(len(own), len(node) // len(neighbours)))


def limit_blas(threads: int) -> None:
    """Set the threads of every BLAS that is loaded, from now on."""
    threadpool_limits(limits=threads)
