"""Gathering the rows of an embedding, and scattering gradients to them."""

from __future__ import annotations

from psdp.backend.arrays import Arrays
from psdp.backend.costs import costs, moves
from psdp.params import Array


def _gathers(
    table: Array, ids: Array, scale: float, positions: Array | None, length: int, out: Array
) -> tuple[float, int]:
    # Of the table, the rows that are taken.
    return 0.0, moves(ids, positions, out, out)[1]


def _scatters(ids: Array, rows: Array, scale: float, table: Array) -> tuple[float, int]:
    return 0.0, moves(ids, rows, rows)[1]


class EmbeddingKernels(Arrays):
    """Rows of a table that ids name."""

    @costs(_gathers)
    def embed(
        self,
        table: Array,
        ids: Array,
        scale: float,
        positions: Array | None,
        length: int,
        out: Array,
    ) -> None:
        """Write ``scale`` times the rows ``ids`` (N) of ``table`` (V, C), plus the rows of
        ``positions`` (T, C) for each sequence of ``length`` T, to ``out`` (N, C)."""
        raise NotImplementedError

    @costs(_scatters)
    def scatter_add(self, ids: Array, rows: Array, scale: float, table: Array) -> None:
        """Add ``scale`` times ``rows`` (N, C), which may be destroyed, to the rows ``ids`` (N) of
        ``table`` (V, C); ids may repeat."""
        raise NotImplementedError

    @costs(moves)
    def add_to_last_columns(self, rows: Array, out: Array) -> None:
        """Add ``rows`` (N, W) to the last W columns of ``out`` (N, C)."""
        last = out[:, -rows.shape[1] :]
        self.xp.add(last, rows, out=last)

    @costs(moves)
    def take_last_columns(self, x: Array, rows: Array) -> None:
        """Write the last W columns of ``x`` (N, C) to ``rows`` (N, W)."""
        self.copy(x[:, -rows.shape[1] :], rows)
