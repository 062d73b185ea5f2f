"""What every codec offers."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from psdp.backend import Backend
from psdp.params import Array

Encode = Callable[[Array, Array], int]
"""Writes what stands for a vector (n,) to the beginning of a buffer (bound(n),), of items; returns
how many of these it is. The vector is only read."""


class Codec(ABC):
    """How vectors of one type are put on the wire, and averaged by who receives them.

    A payload is the items that stand for one vector. All ranks of a job have the same codec, so
    only what a worker remembers from push to push has a state, and that is in what
    :meth:`encoder` returns.

    Args:
        dtype: of the vectors.

    Attributes:
        name: as ``--wire-dtype`` has it.
        help: what it does, in a few words.
        said: what the first line of a run says of what is pushed; "" where it goes without saying.
        work: what ``--profile`` calls the encoding.
        item: the type of the items.
        as_it_is: whether a payload is the vector itself: nothing is encoded, and on one host
            nothing is copied either.
        by_element: whether a payload has an item for each element, which depends on that alone and
            which :class:`~psdp.backend.Backend` can read: parts of a vector may leave as they come.
        varies: whether a payload may be shorter than its bound.
    """

    name: ClassVar[str]
    help: ClassVar[str]
    said: ClassVar[str] = ""
    work: ClassVar[str] = "encoding"
    as_it_is: ClassVar[bool] = False
    by_element: ClassVar[bool] = False
    varies: ClassVar[bool] = False
    item: np.dtype[Any]

    def __init__(self, dtype: npt.DTypeLike) -> None:
        self.dtype = np.dtype(dtype)

    @abstractmethod
    def bound(self, size: int) -> int:
        """Return the most items that a vector (size,) can take."""

    @abstractmethod
    def encoder(self, size: int, backend: Backend) -> Encode:
        """Return what encodes one vector (size,) after the other, on a backend. It may remember
        what it left out of one, and add it to the next (error feedback)."""

    @abstractmethod
    def mean(
        self, payloads: Sequence[Array], weights: Sequence[float], into: Array, backend: Backend
    ) -> None:
        """Write sum(weight * vector) / sum(weights) to ``into`` (P,), of the vectors' type, given a
        payload of each; added in this order."""

    def bound_bytes(self, size: int) -> int:
        """Return the most bytes that a vector (size,) can take on the wire."""
        return self.bound(size) * self.item.itemsize

    def memory_bytes(self, size: int) -> int:
        """Return the bytes that an encoder of vectors (size,) remembers."""
        return 0
