"""Codecs that psdp has not, as a person would add them: each of its own kind of awkward."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from psdp.backend import Backend
from psdp.params import Array
from psdp.wire import Codec, Encode


class Sign(Codec):
    """One bit an element and their mean size, with error feedback (Seide et al. 2014)."""

    name, help, said = "sign", "a bit an element", "as signs"
    item = np.dtype(np.uint8)

    def bound(self, size: int) -> int:
        return 4 + -(-size // 8)

    def encoder(self, size: int, backend: Backend) -> Encode:
        residual = np.zeros(size, self.dtype)

        def encode(vector: Array, out: Array) -> int:
            np.add(residual, vector, out=residual)
            scale = np.abs(residual).mean(dtype=np.float32) if size else np.float32(0)
            out[:4] = np.frombuffer(scale.tobytes(), np.uint8)
            out[4:] = np.packbits(residual >= 0)
            np.subtract(residual, self._decoded(out, size), out=residual)
            return out.size

        return encode

    def mean(
        self, payloads: Sequence[Array], weights: Sequence[float], into: Array, backend: Backend
    ) -> None:
        into[...] = 0
        for payload, weight in zip(payloads, weights, strict=True):
            into += (weight / sum(weights)) * self._decoded(payload, into.size)

    def _decoded(self, payload: Array, size: int) -> Array:
        scale = np.frombuffer(payload[:4].tobytes(), np.float32)[0]
        signs = np.unpackbits(payload[4:], count=size).astype(self.dtype)
        vector: Array = (2 * signs - 1) * scale.astype(self.dtype)
        return vector


class Large(Codec):
    """The elements above a size, each with its place: as many as there are."""

    name, help, said = "large", "large elements only", "where large"
    item = np.dtype(np.uint32)
    varies = True
    threshold = 1e-3

    def bound(self, size: int) -> int:
        return 2 * size

    def encoder(self, size: int, backend: Backend) -> Encode:
        def encode(vector: Array, out: Array) -> int:
            places = np.flatnonzero(~(np.abs(vector) < self.threshold))  # NaN is large
            out[: places.size] = places
            out[places.size : 2 * places.size] = vector[places].view(np.uint32)
            return 2 * int(places.size)

        return encode

    def mean(
        self, payloads: Sequence[Array], weights: Sequence[float], into: Array, backend: Backend
    ) -> None:
        into[...] = 0
        for payload, weight in zip(payloads, weights, strict=True):
            places, values = payload.reshape(2, -1)
            into[places] += np.float32(weight / sum(weights)) * values.view(np.float32)


def registered(codec: type[Codec]) -> Callable[[str | None, object], Codec]:
    """Return a :func:`psdp.wire.make_codec` that has this codec for float32."""

    def make(name: str | None, dtype: object) -> Codec:
        return codec(dtype)  # type: ignore[arg-type]

    return make
