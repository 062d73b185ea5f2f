"""GEMMs by cuBLAS, and by cuBLASLt with an epilogue: what follows a GEMM in the same kernel.

Both libraries count down the columns, and so see every matrix transposed: out^T = b^T a^T.
"""

from __future__ import annotations

import ctypes
from typing import Any, NamedTuple

import numpy as np

from psdp.backend.gpu.device import address
from psdp.backend.gpu.libraries import Unsupported
from psdp.params import Array

# What both call number formats and ways to compute.
_CUDA_R = {"float32": 0, "float64": 1, "uint16": 14}
_COMPUTE_32F, _COMPUTE_64F, _COMPUTE_TF32 = 68, 70, 77

_DEFAULT_ALGORITHM = -1

WORKSPACE_BYTES = 32 * 2**20
"""What NVIDIA advises for both on Hopper."""


class Stored(NamedTuple):
    """How a matrix lies in memory: its address, whether transposed, and its stored rows."""

    address: int
    transposed: int
    leading_dimension: int
    rows: int


def stored(matrix: Array) -> Stored:
    """Return how a matrix lies, which is stored by rows or is such a matrix transposed."""
    if matrix.flags.c_contiguous:
        return Stored(address(matrix), 0, matrix.shape[1], matrix.shape[0])
    assert matrix.flags.f_contiguous, "an operand is stored by rows, or is such a matrix transposed"
    return Stored(address(matrix), 1, matrix.shape[0], matrix.shape[1])


class Scalars:
    """The numbers 0 and 1 where a library can read them, in the type that it computes in."""

    def __init__(self) -> None:
        self._pairs = {wide: np.array([0, 1], "float64" if wide else "float32") for wide in (0, 1)}

    def addresses(self, wide: bool) -> tuple[int, int]:
        """Return where 0 and 1 are, of double or single precision."""
        pair = self._pairs[wide]
        return pair.ctypes.data, pair.ctypes.data + pair.itemsize


def compute_type(out: Array, tf32: bool) -> int:
    """Return the way to compute products that go to ``out``."""
    if out.dtype == np.float64:
        return _COMPUTE_64F
    return _COMPUTE_TF32 if tf32 else _COMPUTE_32F


class CublasGemm:
    """Plain GEMMs.

    CuPy's binding refuses all work while a stream is captured, so the library is called as it is.

    Args:
        cublas: the library.
        stream: the address of the stream that GEMMs are asked for on.
        workspace: that its kernels may use, :data:`WORKSPACE_BYTES`; so it takes none of its own,
            which it must not while a stream is captured.

    Raises:
        RuntimeError: cuBLAS refuses something; so does :meth:`product`.
    """

    def __init__(self, cublas: Any, stream: int, workspace: Array, *, tf32: bool) -> None:
        self._cublas, self._tf32, self._workspace = cublas, tf32, workspace
        self._scalars = Scalars()
        self._handle = ctypes.c_void_p()
        _check("cublasCreate", cublas.cublasCreate_v2(ctypes.byref(self._handle)))
        _check("cublasSetStream", cublas.cublasSetStream_v2(self._handle, _pointer(stream)))
        room = _pointer(address(workspace))
        size = ctypes.c_size_t(WORKSPACE_BYTES)
        _check("cublasSetWorkspace", cublas.cublasSetWorkspace_v2(self._handle, room, size))

    def multiply(self, a: Array, b: Array, out: Array, *, add: bool) -> None:
        """See :meth:`psdp.backend.gpu.device.Device.gemm`."""
        (m, k), n = a.shape, b.shape[1]
        assert b.shape[0] == k, (a.shape, b.shape)
        assert out.shape == (m, n), (out.shape, m, n)
        zero, one = self._scalars.addresses(out.dtype == np.float64)
        left, right = stored(a), stored(b)
        formats = [_CUDA_R[array.dtype.name] for array in (b, a, out)]
        there = _pointer(address(out))
        status = self._cublas.cublasGemmEx(
            self._handle, right.transposed, left.transposed, n, m, k, _pointer(one),
            _pointer(right.address), formats[0], right.leading_dimension,
            _pointer(left.address), formats[1], left.leading_dimension,
            _pointer(one if add else zero), there, formats[2], n,
            compute_type(out, self._tf32), _DEFAULT_ALGORITHM,
        )  # fmt: skip
        _check(f"a product of {a.shape} and {b.shape}", status)


_pointer = ctypes.c_void_p


def _check(what: str, status: int) -> None:
    if status:
        raise RuntimeError(f"{what}: cuBLAS says status {status}")


class _Plan(NamedTuple):
    """What cuBLASLt needs to multiply: descriptors, and the algorithm that it chose."""

    operation: int
    first: int
    second: int
    out: int
    algorithm: Array


class LtGemm:
    """GEMMs with an epilogue: a bias, and gelu.

    Args:
        lt: nvmath's binding of cuBLASLt.
        workspace: that its kernels may use, :data:`WORKSPACE_BYTES`.
        stream: the address of the stream that GEMMs are asked for on.
    """

    def __init__(self, lt: Any, workspace: Array, stream: int, *, tf32: bool) -> None:
        self._lt, self._workspace, self._stream, self._tf32 = lt, workspace, stream, tf32
        self._handle = lt.create()
        version = lt.get_version()
        self.name = f"cuBLASLt {version // 10000}.{version // 100 % 100}"
        self._scalars = Scalars()
        self._plans: dict[Any, _Plan | str] = {}

    def multiply(
        self,
        a: Array,
        b: Array,
        bias: Array | None,
        out: Array,
        *,
        add: bool = False,
        inner: Array | None = None,
    ) -> None:
        """See :class:`psdp.backend.gpu.libraries.FusedGemm`."""
        first, second = stored(b), stored(a)
        # What the epilogue reads and writes is aligned like the result.
        beside = [address(array) for array in (bias, inner) if array is not None]
        there = address(out)
        least = min(map(_alignment, [there, *beside]))
        alignments = _alignment(first.address), _alignment(second.address), least, least
        key = (
            *(first[1:], second[1:], a.dtype.name, out.dtype.name),
            *(bias is not None, inner is not None),
            alignments,
        )
        plan = self._plans.get(key)
        if plan is None:
            plan = self._plans[key] = self._plan(first, second, bias, inner, a, out, alignments)
        if isinstance(plan, str):
            raise Unsupported(plan)
        lt, attribute = self._lt, self._lt.MatmulDescAttribute
        if bias is not None:
            _set(lt, plan.operation, attribute.BIAS_POINTER, address(bias))
        if inner is not None:
            _set(lt, plan.operation, attribute.EPILOGUE_AUX_POINTER, address(inner))
        zero, one = self._scalars.addresses(out.dtype == np.float64)
        lt.matmul(
            self._handle, plan.operation, one, first.address, plan.first,
            second.address, plan.second, one if add else zero, there, plan.out, there, plan.out,
            plan.algorithm.ctypes.data, address(self._workspace),
            WORKSPACE_BYTES, self._stream,
        )  # fmt: skip

    def _plan(
        self,
        first: Stored,
        second: Stored,
        bias: Array | None,
        inner: Array | None,
        a: Array,
        out: Array,
        alignments: tuple[int, int, int, int],
    ) -> _Plan | str:
        """Return how to multiply, or why that cannot be."""
        lt, attribute, kinds = self._lt, self._lt.MatmulDescAttribute, self._lt.Epilogue
        name = "_".join(
            ["GELU_AUX"] * (inner is not None) + ["BIAS"] * (bias is not None) or ["DEFAULT"]
        )
        width = out.shape[1]
        if inner is not None and width % 8:
            return f"rows of {width} are no multiple of 8"
        scale = _CUDA_R["float64" if out.dtype == np.float64 else "float32"]
        operation = lt.matmul_desc_create(compute_type(out, self._tf32), scale)
        _set(lt, operation, attribute.TRANSA, first.transposed)
        _set(lt, operation, attribute.TRANSB, second.transposed)
        _set(lt, operation, attribute.EPILOGUE, kinds[name])
        if inner is not None:
            _set(lt, operation, attribute.EPILOGUE_AUX_LD, width)
        form = _CUDA_R[a.dtype.name]
        layouts = (
            lt.matrix_layout_create(
                form, first.leading_dimension, first.rows, first.leading_dimension
            ),
            lt.matrix_layout_create(
                form, second.leading_dimension, second.rows, second.leading_dimension
            ),
            lt.matrix_layout_create(_CUDA_R[out.dtype.name], width, out.shape[0], width),
        )
        algorithm = self._choose(operation, layouts, alignments)
        if algorithm is None:
            return f"it has no {name} for {a.shape} times {(a.shape[1], width)}"
        return _Plan(operation, *layouts, algorithm)

    def _choose(
        self,
        operation: int,
        layouts: tuple[int, int, int],
        alignments: tuple[int, int, int, int],
    ) -> Array | None:
        """Return the algorithm that cuBLASLt likes best, or None if it has none."""
        lt, wish = self._lt, self._lt.MatmulPreferenceAttribute
        preference = lt.matmul_preference_create()
        limit = np.array([WORKSPACE_BYTES], np.uint64)
        lt.matmul_preference_set_attribute(
            preference, wish.MAX_WORKSPACE_BYTES, limit.ctypes.data, limit.nbytes
        )
        for letter, least_bytes in zip("ABCD", alignments, strict=True):
            least = np.array([least_bytes], np.uint32)
            lt.matmul_preference_set_attribute(
                preference,
                wish[f"MIN_ALIGNMENT_{letter}_BYTES"],
                least.ctypes.data,
                least.nbytes,
            )
        found: Array = np.zeros(1, lt.matmul_heuristic_result_dtype)
        count = np.zeros(1, np.int32)
        try:
            lt.matmul_algo_get_heuristic(
                self._handle, operation, layouts[0], layouts[1], layouts[2], layouts[2],
                preference, 1, found.ctypes.data, count.ctypes.data,
            )  # fmt: skip
        except lt.cuBLASLtError:
            return None
        finally:
            lt.matmul_preference_destroy(preference)
        return found["algo"].copy() if count[0] and not found["state"][0] else None


def _set(lt: Any, operation: int, attribute: Any, value: int) -> None:
    held = np.array([value], lt.get_matmul_desc_attribute_dtype(attribute))
    lt.matmul_desc_set_attribute(operation, attribute, held.ctypes.data, held.nbytes)


def _alignment(address: int) -> int:
    """Return the largest power of two, up to 256, that divides an address."""
    return min(256, address & -address)
