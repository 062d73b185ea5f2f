"""Vectors rounded to bfloat16."""

from __future__ import annotations

from psdp.backend import BF16, Backend
from psdp.params import Array
from psdp.wire.average import ElementCodec
from psdp.wire.base import Encode


class BFloat16(ElementCodec):
    """The upper half of each float32, rounded to the nearest, of two the even one."""

    name = "bf16"
    help = "rounded to bfloat16, half the bytes"
    said = "in bfloat16"
    work = "rounding"
    item = BF16

    def encoder(self, size: int, backend: Backend) -> Encode:
        def encode(vector: Array, out: Array) -> int:
            backend.round_bf16(vector, out)
            return vector.size

        return encode
