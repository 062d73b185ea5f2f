"""Vectors that are on the wire element by element, and their mean."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from psdp.backend import Backend
from psdp.params import Array
from psdp.wire.base import Codec


def weighted_mean(
    into: Array, gradients: Sequence[Array], weights: Sequence[float], backend: Backend
) -> None:
    """Write sum(weight * gradient) / sum(weights) into ``into`` (P,); gradients are (P,) each.

    Adds in the given order, so the same gradients in the same order give the same bits. ``into``
    may be any one of the gradients. NaN and Inf pass through silently for
    :func:`~psdp.backend.squares.sum_of_squares` to find.
    """
    assert len(gradients) == len(weights) > 0, (len(gradients), len(weights))
    total = sum(weights)
    assert total > 0, f"the weights of a mean must add up to more than zero, got {weights}"
    shares = [float(weight) / float(total) for weight in weights]
    with np.errstate(over="ignore", invalid="ignore"):
        backend.mean(list(gradients), shares, into)


class ElementCodec(Codec):
    """Has an item for each element, so the backend averages payloads as they came."""

    by_element = True

    def bound(self, size: int) -> int:
        return size

    def mean(
        self, payloads: Sequence[Array], weights: Sequence[float], into: Array, backend: Backend
    ) -> None:
        weighted_mean(into, payloads, weights, backend)
