"""The GPU itself, through CuPy. This is the only file that imports cupy."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import Any

import numpy as np

from psdp.backend.arrays import Array
from psdp.backend.cuda import OPTIONS, Source
from psdp.errors import DeviceMemoryError, NoDevice

# What cuBLAS calls number formats, ways to compute, and its own choice of an algorithm.
_CUDA_R = {"float32": 0, "float64": 1, "uint16": 14}
_COMPUTE_32F, _COMPUTE_64F, _COMPUTE_TF32 = 68, 70, 77
_DEFAULT_ALGORITHM = -1
_POINTERS_ON_HOST = 0

_BLOCK = 2 * 2**20
"""Bytes in which CUDA shares memory between processes."""

_USUAL_SHARED = 48 * 1024
"""Bytes of shared memory that a block may have without asking."""


def open_device(local_rank: int, *, tf32: bool = False) -> CupyDevice:
    """Return GPU ``local_rank`` modulo the number of GPUs of this host.

    Args:
        tf32: whether products of float32 round their factors to TF32.

    Raises:
        NoDevice: CuPy, the driver or a device is missing; the text goes on from who asked.
    """
    try:
        import cupy
        from cupy_backends.cuda.libs import cublas
    except ImportError as error:
        raise NoDevice(
            "needs CuPy: pip install 'psdp[cuda12]' or 'psdp[cuda13]', whichever your driver "
            f"supports ({error})"
        ) from error
    try:
        count = cupy.cuda.runtime.getDeviceCount()
    except cupy.cuda.runtime.CUDARuntimeError as error:
        raise NoDevice(
            f"needs an NVIDIA driver and a GPU, and CUDA found none ({error}); check nvidia-smi"
        ) from error
    if count == 0:
        raise NoDevice("needs a GPU, and CUDA sees no GPU; check CUDA_VISIBLE_DEVICES")
    return CupyDevice(cupy, cublas, local_rank % count, tf32=tf32)


class CupyDevice:
    """One GPU and one stream of this process; see :class:`psdp.backend.gpu_backend.Device`.

    What goes to the device waits in page-locked memory for as long as it must. Vectors that travel
    again and again are locked once (:meth:`lock`), and copied from where they are.
    """

    def __init__(self, cupy: Any, cublas: Any, number: int, *, tf32: bool) -> None:
        self.xp = self._cupy = cupy
        self._cublas = cublas
        self._runtime = cupy.cuda.runtime
        self._number = number
        device = cupy.cuda.Device(number)
        device.use()
        properties = self._runtime.getDeviceProperties(number)
        name, bus = properties["name"], device.pci_bus_id
        self.name = f"{name.decode() if isinstance(name, bytes) else name} at {bus}"
        self.shared_bytes = int(device.attributes["MaxSharedMemoryPerBlockOptin"])
        self._stream = cupy.cuda.Stream(non_blocking=True)
        self._copies = cupy.cuda.Stream(non_blocking=True)
        self._under_way = False
        self._stream.use()
        self._handle = cupy.cuda.device.get_cublas_handle()
        cublas.setStream(self._handle, self._stream.ptr)
        cublas.setPointerMode(self._handle, _POINTERS_ON_HOST)
        self._tf32 = tf32
        self._factors = {dtype: np.array([0, 1], dtype) for dtype in ("float32", "float64")}
        self._kernels: dict[tuple[Source, str], Any] = {}
        self._modules: dict[Source, Any] = {}
        self._waiting: list[tuple[Any, Array]] = []
        self._locked: dict[int, int] = {}

    # Memory ---------------------------------------------------------------------------------

    def memory(self) -> tuple[int, int]:
        """Return the free bytes and all bytes of the device."""
        free, total = self._runtime.memGetInfo()
        return int(free), int(total)

    def empty(self, shape: tuple[int, ...], dtype: Any) -> Array:
        return self._allocate(self._cupy.empty, shape, dtype)

    def zeros(self, shape: tuple[int, ...], dtype: Any) -> Array:
        return self._allocate(self._cupy.zeros, shape, dtype)

    def _allocate(self, how: Callable[..., Any], shape: tuple[int, ...], dtype: Any) -> Array:
        try:
            array: Array = how(shape, dtype)
        except self._cupy.cuda.memory.OutOfMemoryError as error:
            free, total = self.memory()
            raise DeviceMemoryError(
                f"{self.name} has {free / 2**30:.2f} of {total / 2**30:.2f} GiB free, and "
                f"{np.prod(shape) * np.dtype(dtype).itemsize / 2**30:.2f} GiB more were needed"
            ) from error
        return array

    def lock(self, vector: Array) -> bool:
        """Page-lock the memory of a host vector, so that copies of it are direct and need not be
        waited for; where the system forbids it (False) they are as before, slower."""
        if vector.size and not self._is_locked(vector):
            try:
                self._runtime.hostRegister(vector.ctypes.data, vector.nbytes, 0)
            except self._runtime.CUDARuntimeError:
                return False
            self._locked[vector.ctypes.data] = vector.nbytes
        return True

    # Memory of several processes ------------------------------------------------------------

    def export(self, nbytes: int) -> tuple[Array, bytes]:
        # Not of CuPy's pool: a handle is of a whole allocation. Of whole blocks, since CUDA shares
        # them with all that is in them.
        nbytes = -(-nbytes // _BLOCK) * _BLOCK
        try:
            pointer = self._runtime.malloc(nbytes)
        except self._runtime.CUDARuntimeError as error:
            raise OSError(0, f"no {nbytes / 1e6:,.1f} MB of {self.name} ({error})") from error
        array = self._bytes_at(pointer, nbytes, self._runtime.free, at_exit=False)
        try:
            handle: bytes = self._runtime.ipcGetMemHandle(pointer)
        except self._runtime.CUDARuntimeError as error:
            raise OSError(0, f"no memory of {self.name} can be exported ({error})") from error
        self.clear(array)
        return array, nbytes.to_bytes(8, "little") + handle

    def open(self, handle: bytes) -> Array:
        try:
            pointer = self._runtime.ipcOpenMemHandle(
                handle[8:], self._runtime.cudaIpcMemLazyEnablePeerAccess
            )
        except self._runtime.CUDARuntimeError as error:
            raise OSError(0, f"{self.name} cannot reach it ({error})") from error
        nbytes = int.from_bytes(handle[:8], "little")
        return self._bytes_at(pointer, nbytes, self._runtime.ipcCloseMemHandle, at_exit=True)

    def _bytes_at(
        self, pointer: int, nbytes: int, end: Callable[[int], None], *, at_exit: bool
    ) -> Array:
        """Return the bytes behind a pointer; ``end`` is called with it once nobody has them, and
        ``at_exit`` if somebody has until then."""
        owner = _Owner()
        weakref.finalize(owner, end, pointer).atexit = at_exit
        # As of this device wherever it lies: kernels of this device may use it.
        memory = self._cupy.cuda.UnownedMemory(pointer, nbytes, owner, self._number)
        at = self._cupy.cuda.MemoryPointer(memory, 0)
        array: Array = self._cupy.ndarray((nbytes,), np.uint8, at)
        return array

    # Copies ---------------------------------------------------------------------------------

    def copy(self, source: Array, out: Array) -> None:
        self._runtime.memcpyAsync(
            out.data.ptr,  # type: ignore[attr-defined]
            source.data.ptr,  # type: ignore[attr-defined]
            out.nbytes,
            self._runtime.memcpyDefault,
            self._stream.ptr,
        )

    def upload(self, host: Array, out: Array) -> None:
        if not self._is_locked(host):
            host = self._staged(host)
        self._runtime.memcpyAsync(
            out.data.ptr,  # type: ignore[attr-defined]
            host.ctypes.data,
            host.nbytes,
            self._runtime.memcpyHostToDevice,
            self._stream.ptr,
        )
        if not self._is_locked(host):
            self._waiting.append((self._stream.record(), host))

    def _is_locked(self, host: Array) -> bool:
        """Say whether this is the front of a vector that was locked."""
        return self._locked.get(host.ctypes.data, -1) >= host.nbytes

    def _staged(self, host: Array) -> Array:
        """Return a copy in page-locked memory, which is taken from CuPy's pool."""
        self._waiting = [(event, kept) for event, kept in self._waiting if not event.done]
        memory = self._cupy.cuda.alloc_pinned_memory(host.nbytes)
        copy: Array = np.frombuffer(memory, host.dtype, host.size).reshape(host.shape)
        copy[...] = host
        return copy

    def download(self, device: Array, out: Array) -> None:
        self._runtime.memcpyAsync(
            out.ctypes.data,
            device.data.ptr,  # type: ignore[attr-defined]
            out.nbytes,
            self._runtime.memcpyDeviceToHost,
            self._stream.ptr,
        )
        self.synchronize()

    def send_off(self, device: Array, out: Array) -> None:
        self._copies.wait_event(self._stream.record())
        self._runtime.memcpyAsync(
            out.ctypes.data,
            device.data.ptr,  # type: ignore[attr-defined]
            out.nbytes,
            self._runtime.memcpyDeviceToHost,
            self._copies.ptr,
        )
        self._under_way = True

    def _rejoin(self) -> None:
        """Let the stream wait for all that was sent off."""
        if self._under_way:
            self._stream.wait_event(self._copies.record())
            self._under_way = False

    def clear(self, out: Array) -> None:
        pointer = out.data.ptr  # type: ignore[attr-defined]
        self._runtime.memsetAsync(pointer, 0, out.nbytes, self._stream.ptr)

    def synchronize(self) -> None:
        self._rejoin()
        self._stream.synchronize()

    # Work -----------------------------------------------------------------------------------

    def launch(
        self,
        source: Source,
        kernel: str,
        grid: tuple[int, ...],
        block: int,
        arguments: tuple[Any, ...],
        shared: int = 0,
    ) -> None:
        function = self._kernels.get((source, kernel)) or self._compile(source, kernel)
        if shared > _USUAL_SHARED and shared > function.max_dynamic_shared_size_bytes:
            function.max_dynamic_shared_size_bytes = shared
        values = tuple(np.uintp(0) if value is None else value for value in arguments)
        function(grid, (block,), values, shared_mem=shared)

    def _compile(self, source: Source, kernel: str) -> Any:
        module = self._modules.get(source)
        if module is None:
            options = (*OPTIONS, *source.definitions())
            module = self._cupy.RawModule(code=source.text(), options=options)
            self._modules[source] = module
        function = self._kernels[source, kernel] = module.get_function(kernel)
        return function

    def product(self, a: Array, b: Array, out: Array, *, add: bool) -> None:
        # cuBLAS counts down the columns, and so sees every matrix transposed: out^T = b^T a^T.
        (m, k), n = a.shape, b.shape[1]
        assert b.shape[0] == k, (a.shape, b.shape)
        assert out.shape == (m, n), (out.shape, m, n)
        wide = out.dtype == np.float64
        compute = _COMPUTE_64F if wide else _COMPUTE_TF32 if self._tf32 else _COMPUTE_32F
        zero_and_one = self._factors["float64" if wide else "float32"]
        step = zero_and_one.itemsize
        first = zero_and_one.ctypes.data
        (left, turn_a, pitch_a), (right, turn_b, pitch_b) = _stored(a), _stored(b)
        formats = [_CUDA_R[array.dtype.name] for array in (b, a, out)]
        self._cublas.gemmEx(
            self._handle, turn_b, turn_a, n, m, k, first + step,
            right, formats[0], pitch_b, left, formats[1], pitch_a,
            first + step * add, out.data.ptr, formats[2], n,  # type: ignore[attr-defined]
            compute, _DEFAULT_ALGORITHM,
        )  # fmt: skip

    def capture(self, work: Callable[[], None]) -> Callable[[], None]:
        self._stream.begin_capture()
        try:
            work()
            self._rejoin()
        finally:
            graph = self._stream.end_capture()

        def again() -> None:
            graph.launch(self._stream)

        return again


class _Owner:
    """Stands for memory that CuPy does not own."""


def _stored(matrix: Array) -> tuple[int, int, int]:
    """Return a matrix's address, whether it lies transposed, and the length of its stored rows."""
    address = matrix.data.ptr  # type: ignore[attr-defined]
    if matrix.flags.c_contiguous:
        return address, 0, matrix.shape[1]
    assert matrix.flags.f_contiguous, "a factor is stored by rows, or is such a matrix turned"
    return address, 1, matrix.shape[0]
