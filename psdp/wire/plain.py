"""Vectors as they are."""

from __future__ import annotations

from collections.abc import Sequence

import numpy.typing as npt

from psdp.backend import Backend
from psdp.params import Array
from psdp.wire.average import weighted_mean
from psdp.wire.base import Codec, Encode


class Plain(Codec):
    """The vector itself."""

    name = "float32"
    help = "as it is"
    as_it_is = True
    by_element = True

    def __init__(self, dtype: npt.DTypeLike) -> None:
        super().__init__(dtype)
        self.item = self.dtype

    def bound(self, size: int) -> int:
        return size

    def encoder(self, size: int, backend: Backend) -> Encode:
        def encode(vector: Array, out: Array) -> int:
            backend.copy(vector, out)
            return vector.size

        return encode

    def mean(
        self, payloads: Sequence[Array], weights: Sequence[float], into: Array, backend: Backend
    ) -> None:
        weighted_mean(into, payloads, weights, backend)
