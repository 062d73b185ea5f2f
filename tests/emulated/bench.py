"""Arrays of any backend beside the same in float64, and what shapes kernels are tried on."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from psdp.backend import Backend
from psdp.params import Array

Numbers = Callable[..., Array]

random_shapes = settings(
    max_examples=12,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
    phases=[Phase.explicit, Phase.generate],
)
rows_and_width = given(
    rows=st.sampled_from([1, 2, 7, 33, 130]),
    width=st.sampled_from([1, 2, 5, 32, 33, 100, 257]),
    seed=st.integers(0, 99),
)


class Bench:
    """Arrays of a backend, and the float64 that they stand for."""

    def __init__(self, backend: Backend, seed: int) -> None:
        self.backend, self.rng = backend, np.random.default_rng(seed)
        self.half = backend.compute_dtype != backend.dtype
        self.tolerance = {"float32": 1e-5, "float64": 1e-12}[str(backend.dtype)]

    def real(self, *shape: int) -> tuple[Array, Array]:
        host = self.rng.standard_normal(shape).astype(self.backend.dtype)
        device = self.backend.empty(*shape)
        self.backend.to_device(host, device)
        return device, host.astype(np.float64)

    def branch(self, *shape: int) -> tuple[Array, Array]:
        array, _ = self.real(*shape)
        room = self.backend.empty(*shape, dtype=self.backend.compute_dtype)
        room = self.backend.cast(array, room)
        return room, self.wide(room)

    def room(self, *shape: int) -> Array:
        return self.backend.empty(*shape, dtype=self.backend.compute_dtype)

    def ids(self, values: Any) -> Array:
        room = self.backend.new_ids(len(values))
        self.backend.load_ids(np.array(values), room, ordered=True)
        return room

    def wide(self, array: Array) -> Array:
        host = np.empty(array.shape, array.dtype)
        self.backend.to_host(array, host)
        if self.half and host.dtype == np.uint16:
            return torch.from_numpy(host.astype(np.int16)).view(torch.bfloat16).double().numpy()
        return host.astype(np.float64)

    def close(self, got: Array, expected: Array, terms: int = 1) -> None:
        """Assert equality up to rounding: of float, of bfloat16 in a branch, of a sum of terms."""
        rounded = self.half and got.dtype == self.backend.compute_dtype
        relative = 2.0**-7 if rounded else self.tolerance
        absolute = relative * math.sqrt(terms)
        np.testing.assert_allclose(self.wide(got), expected, rtol=relative, atol=absolute)
