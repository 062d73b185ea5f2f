"""Vectors as they are."""

from __future__ import annotations

import numpy.typing as npt

from psdp.backend import Backend
from psdp.params import Array
from psdp.wire.average import ElementCodec
from psdp.wire.base import Encode


class Plain(ElementCodec):
    """The vector itself."""

    name = "float32"
    help = "as it is"
    as_it_is = True

    def __init__(self, dtype: npt.DTypeLike) -> None:
        super().__init__(dtype)
        self.item = self.dtype

    def encoder(self, size: int, backend: Backend) -> Encode:
        def encode(vector: Array, out: Array) -> int:
            backend.copy(vector, out)
            return vector.size

        return encode
