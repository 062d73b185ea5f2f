"""Vectors rounded to bfloat16."""

from __future__ import annotations

from collections.abc import Sequence

from psdp.backend import BF16, Backend
from psdp.params import Array
from psdp.wire.average import weighted_mean
from psdp.wire.base import Codec, Encode


class BFloat16(Codec):
    """The upper half of each float32, rounded to the nearest, of two the even one."""

    name = "bf16"
    help = "rounded to bfloat16, half the bytes"
    said = "in bfloat16"
    work = "rounding"
    by_element = True
    item = BF16

    def bound(self, size: int) -> int:
        return size

    def encoder(self, size: int, backend: Backend) -> Encode:
        def encode(vector: Array, out: Array) -> int:
            backend.round_bf16(vector, out)
            return vector.size

        return encode

    def mean(
        self, payloads: Sequence[Array], weights: Sequence[float], into: Array, backend: Backend
    ) -> None:
        weighted_mean(into, payloads, weights, backend)
