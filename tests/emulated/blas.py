"""cuBLAS and cuBLASLt that are none: they read what they are handed as NVIDIA documents it, down
the columns and by addresses, and multiply with NumPy."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from enum import IntEnum
from typing import Any

import numpy as np

from psdp.params import Array

TYPES = {0: np.dtype(np.float32), 1: np.dtype(np.float64), 14: np.dtype(np.uint16)}
COMPUTE = {68: 0, 70: 1, 77: 0}
"""Types of the scalars of each way to compute."""

Do = Callable[[Callable[[], None]], None]


def at(address: int, count: int, dtype: Any) -> Array:
    """Return the memory at an address."""
    dtype = np.dtype(dtype)
    raw = (ctypes.c_char * (count * dtype.itemsize)).from_address(address)
    return np.frombuffer(raw, dtype)


def by_columns(address: int, rows: int, columns: int, pitch: int, kind: int) -> Array:
    """Return a matrix that is stored down its columns, ``pitch`` elements from one to the next."""
    assert rows <= pitch
    return at(address, pitch * columns, TYPES[kind]).reshape(columns, pitch)[:, :rows].T


def wide(array: Array) -> Array:
    """Return float64 of any format; bfloat16 comes as its bits."""
    if array.dtype == np.uint16:
        array = (array.astype(np.uint32) << 16).view(np.float32)
    return array.astype(np.float64)


def put(out: Array, values: Array) -> None:
    """Write float64 in the format of ``out``."""
    if out.dtype == np.uint16:
        bits = values.astype(np.float32).view(np.uint32)
        out[...] = (bits + 0x7FFF + (bits >> 16 & 1)) >> 16
    else:
        out[...] = values


def gelu(x: Array) -> Array:
    return 0.5 * x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)))


class Cublas:
    """The library, as far as psdp uses it; pointers come as ctypes has them."""

    def __init__(self, do: Do) -> None:
        self._do = do
        self._streams: dict[int, int] = {}
        self._rooms: dict[int, tuple[int, int]] = {}

    def cublasCreate_v2(self, handle: Any) -> int:
        ctypes.cast(handle, ctypes.POINTER(ctypes.c_void_p)).contents.value = 7
        return 0

    def cublasSetStream_v2(self, handle: ctypes.c_void_p, stream: ctypes.c_void_p) -> int:
        self._streams[handle.value or 0] = stream.value or 0
        self._rooms.pop(handle.value or 0, None)  # a new stream takes the workspace away
        return 0

    def cublasSetWorkspace_v2(
        self, handle: ctypes.c_void_p, room: ctypes.c_void_p, size: ctypes.c_size_t
    ) -> int:
        assert (room.value or 0) % 256 == 0, "NVIDIA asks for that"
        self._rooms[handle.value or 0] = room.value or 0, size.value
        return 0

    def cublasGemmEx(
        self, handle: ctypes.c_void_p, turn_a: int, turn_b: int, m: int, n: int, k: int,
        alpha: ctypes.c_void_p, a: ctypes.c_void_p, kind_a: int, pitch_a: int,
        b: ctypes.c_void_p, kind_b: int, pitch_b: int, beta: ctypes.c_void_p,
        c: ctypes.c_void_p, kind_c: int, pitch_c: int, compute: int, algorithm: int,
    ) -> int:  # fmt: skip
        if handle.value not in self._rooms:
            return 1  # it would allocate
        assert algorithm == -1
        scalar = TYPES[COMPUTE[compute]]
        one, rest = (float(at(place.value or 0, 1, scalar)[0]) for place in (alpha, beta))
        place_a, place_b, place_c = (place.value or 0 for place in (a, b, c))

        def run() -> None:
            left = by_columns(place_a, k if turn_a else m, m if turn_a else k, pitch_a, kind_a)
            right = by_columns(place_b, n if turn_b else k, k if turn_b else n, pitch_b, kind_b)
            out = by_columns(place_c, m, n, pitch_c, kind_c)
            first = wide(left.T if turn_a else left)
            product = one * first @ wide(right.T if turn_b else right)
            put(out, product + (rest * wide(out) if rest else 0))

        self._do(run)
        return 0


class LtError(Exception):
    """Stands for nvmath's."""


class CublasLt:
    """nvmath's binding, as far as psdp uses it.

    Args:
        do: takes what is to be done on the stream.
        faults: what is wrong with it: "no bias", "no gelu", "refuses".
    """

    cuBLASLtError = LtError
    Epilogue = IntEnum("Epilogue", {"DEFAULT": 1, "BIAS": 4, "GELU_AUX": 160, "GELU_AUX_BIAS": 164})
    MatmulDescAttribute = IntEnum(
        "MatmulDescAttribute",
        {
            "TRANSA": 3,
            "TRANSB": 4,
            "EPILOGUE": 7,
            "BIAS_POINTER": 8,
            "EPILOGUE_AUX_POINTER": 11,
            "EPILOGUE_AUX_LD": 12,
        },
    )
    MatmulPreferenceAttribute = IntEnum(
        "MatmulPreferenceAttribute",
        {
            "MAX_WORKSPACE_BYTES": 1,
            **{f"MIN_ALIGNMENT_{letter}_BYTES": 5 + i for i, letter in enumerate("ABCD")},
        },
    )
    matmul_heuristic_result_dtype = np.dtype(
        [("algo", [("data_", "<u8", (8,))]), ("workspace_size", "<u8"), ("state", "<i4"),
         ("waves_count", "<f4"), ("reserved", "<i4", (4,))]
    )  # fmt: skip

    def __init__(self, do: Do, *faults: str) -> None:
        self._do, self._faults = do, faults
        self._things: list[dict[str, Any]] = []
        self.multiplied = 0

    def create(self) -> int:
        return 7

    def get_version(self) -> int:
        return 120902

    def _new(self, **thing: Any) -> int:
        self._things.append(thing)
        return len(self._things) - 1

    def matmul_desc_create(self, compute: int, scale: int) -> int:
        assert COMPUTE[compute] == scale
        return self._new(scale=scale, TRANSA=0, TRANSB=0, EPILOGUE=1)

    def get_matmul_desc_attribute_dtype(self, attribute: Any) -> Any:
        kinds = {"EPILOGUE": np.uint32, "TRANSA": np.int32, "TRANSB": np.int32}
        return kinds.get(attribute.name, np.int64)

    def matmul_desc_set_attribute(self, place: int, attribute: Any, held: int, size: int) -> None:
        dtype = np.dtype(self.get_matmul_desc_attribute_dtype(attribute))
        assert size == dtype.itemsize
        self._things[place][attribute.name] = int(at(held, 1, dtype)[0])

    def matrix_layout_create(self, kind: int, rows: int, columns: int, pitch: int) -> int:
        return self._new(kind=kind, rows=rows, columns=columns, pitch=pitch)

    def matmul_preference_create(self) -> int:
        return self._new()

    def matmul_preference_set_attribute(
        self, place: int, attribute: Any, held: int, size: int
    ) -> None:
        dtype = np.dtype(np.uint64 if attribute.name == "MAX_WORKSPACE_BYTES" else np.uint32)
        assert size == dtype.itemsize
        self._things[place][attribute.name] = int(at(held, 1, dtype)[0])

    def matmul_preference_destroy(self, place: int) -> None:
        self._things[place] = {}

    def matmul_algo_get_heuristic(
        self, handle: int, operation: int, a: int, b: int, c: int, d: int,
        preference: int, asked: int, results: int, count: int,
    ) -> None:  # fmt: skip
        assert (handle, asked) == (7, 1)
        wish, scale = self._things[preference], self._things[operation]["scale"]
        if "refuses" in self._faults or (scale == 1 and self._things[operation]["EPILOGUE"] != 1):
            raise LtError("not supported")
        found = at(results, 1, self.matmul_heuristic_result_dtype)
        # The algorithm carries what it was chosen for.
        found["algo"]["data_"][0, :4] = [wish[f"MIN_ALIGNMENT_{letter}_BYTES"] for letter in "ABCD"]
        at(count, 1, np.int32)[0] = 1

    def matmul(
        self, handle: int, operation: int, alpha: int, a: int, layout_a: int, b: int,
        layout_b: int, beta: int, c: int, layout_c: int, d: int, layout_d: int,
        algorithm: int, workspace: int, workspace_size: int, stream: int,
    ) -> None:  # fmt: skip
        what = dict(self._things[operation])
        for place, least in zip((a, b, c, d), at(algorithm, 4, np.uint64), strict=True):
            assert place % int(least) == 0, "another algorithm was chosen for this alignment"
        at(workspace, workspace_size, np.uint8)
        scalar = TYPES[what["scale"]]
        one, rest = (float(at(place, 1, scalar)[0]) for place in (alpha, beta))
        assert (c, layout_c) == (d, layout_d)
        self.multiplied += 1

        def matrix(place: int, layout: int) -> Array:
            how = self._things[layout]
            return by_columns(place, how["rows"], how["columns"], how["pitch"], how["kind"])

        def run() -> None:
            left, right, out = matrix(a, layout_a), matrix(b, layout_b), matrix(d, layout_d)
            left, right = left.T if what["TRANSA"] else left, right.T if what["TRANSB"] else right
            result = one * wide(left) @ wide(right) + (rest * wide(out) if rest else 0)
            kinds = self.Epilogue(what["EPILOGUE"]).name.split("_")
            if "BIAS" in kinds and "no bias" not in self._faults:
                result += wide(at(what["BIAS_POINTER"], len(out), out.dtype))[:, None]
            if "GELU" in kinds:
                kind = {v: k for k, v in TYPES.items()}[out.dtype]
                pitch = what["EPILOGUE_AUX_LD"]
                put(by_columns(what["EPILOGUE_AUX_POINTER"], *out.shape, pitch, kind), result)
                result = result if "no gelu" in self._faults else gelu(result)
            put(out, result)

        self._do(run)
