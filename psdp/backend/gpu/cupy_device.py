"""The GPU itself, through CuPy. This is the only file that imports cupy."""

from __future__ import annotations

import contextlib
import ctypes
import weakref
from collections.abc import Callable
from typing import Any

import numpy as np

from psdp.backend.gpu.cublas import WORKSPACE_BYTES, CublasGemm, LtGemm
from psdp.backend.gpu.cuda import OPTIONS, Source
from psdp.backend.gpu.cudnn import CudnnAttention
from psdp.backend.gpu.device import address
from psdp.backend.gpu.libraries import Libraries, opened
from psdp.errors import DeviceMemoryError, NoDevice, UnusableDevice
from psdp.params import Array

_MOST_STAGED = 16 * 2**20
"""Bytes of the largest upload by way of pinned memory, which CuPy's pool never gives back."""

_BLOCK = 2 * 2**20
"""Bytes in which CUDA shares memory between processes."""

_USUAL_SHARED = 48 * 1024
"""Bytes of shared memory that a block may have without asking."""


def open_device(local_rank: int, *, tf32: bool = False) -> CupyDevice:
    """Return GPU ``local_rank`` modulo the number of GPUs of this host.

    Args:
        tf32: whether GEMMs of float32 round their operands to TF32.

    Raises:
        NoDevice: CuPy, the driver or a device is missing; the text goes on from who asked.
        UnusableDevice: there is one, but it cannot be opened.
    """
    try:
        import cupy
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
    number = local_rank % count
    try:
        return CupyDevice(cupy, number, tf32=tf32)
    except (ImportError, OSError, RuntimeError) as error:
        raise UnusableDevice(f"cannot use GPU {number} ({error}); free it") from error


class CupyDevice:
    """One GPU and one stream of this process; see :class:`psdp.backend.gpu.device.Device`.

    What goes to the device waits in pinned memory for as long as it must. Vectors that are
    copied again and again are pinned once (:meth:`pin`), and copied from where they are.
    """

    def __init__(self, cupy: Any, number: int, *, tf32: bool) -> None:
        self.xp = self._cupy = cupy
        self._runtime = cupy.cuda.runtime
        self._number = number
        device = cupy.cuda.Device(number)
        device.use()
        properties = self._runtime.getDeviceProperties(number)
        name, bus = properties["name"], device.pci_bus_id
        self.name = f"{name.decode() if isinstance(name, bytes) else name} at {bus}"
        self.capability = int(device.compute_capability)
        self.shared_bytes = int(device.attributes["MaxSharedMemoryPerBlockOptin"])
        self._stream = cupy.cuda.Stream(non_blocking=True)
        self._copies = cupy.cuda.Stream(non_blocking=True)
        self._under_way = False
        self._stream.use()
        self._tf32 = tf32
        self._workspace = self.empty((WORKSPACE_BYTES,), np.uint8)
        self._gemm = CublasGemm(_load_cublas(), self._stream.ptr, self._workspace, tf32=tf32)
        self._kernels: dict[tuple[Source, str], Any] = {}
        self._modules: dict[Source, Any] = {}
        self._waiting: list[tuple[Any, Array]] = []
        self._pinned: dict[int, Array] = {}

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

    def pin(self, vector: Array) -> bool:
        """Pin the memory of a host vector, so that copies of it are direct and need not be
        waited for; where the system forbids it (False) they are as before, slower."""
        if vector.size and not self._is_pinned(vector):
            try:
                self._runtime.hostRegister(vector.ctypes.data, vector.nbytes, 0)
            except self._runtime.CUDARuntimeError:
                return False
            self._pinned[vector.ctypes.data] = vector  # which stays as long as it is pinned
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
            address(out),
            address(source),
            out.nbytes,
            self._runtime.memcpyDefault,
            self._stream.ptr,
        )

    def upload(self, host: Array, out: Array) -> None:
        pinned, staged = self._is_pinned(host), host.nbytes <= _MOST_STAGED
        if not pinned and staged:
            host = self._staged(host)
        self._runtime.memcpyAsync(
            address(out),
            host.ctypes.data,
            host.nbytes,
            self._runtime.memcpyHostToDevice,
            self._stream.ptr,
        )
        if not pinned and staged:
            self._waiting.append((self._stream.record(), host))
        elif not pinned:
            self._stream.synchronize()

    def _is_pinned(self, host: Array) -> bool:
        """Say whether this is the front of a vector that was pinned."""
        pinned = self._pinned.get(host.ctypes.data)
        return pinned is not None and pinned.nbytes >= host.nbytes

    def _staged(self, host: Array) -> Array:
        """Return a copy in pinned memory, which is taken from CuPy's pool."""
        self._waiting = [(event, kept) for event, kept in self._waiting if not event.done]
        memory = self._cupy.cuda.alloc_pinned_memory(host.nbytes)
        copy: Array = np.frombuffer(memory, host.dtype, host.size).reshape(host.shape)
        copy[...] = host
        return copy

    def download(self, device: Array, out: Array) -> None:
        self._runtime.memcpyAsync(
            out.ctypes.data,
            address(device),
            out.nbytes,
            self._runtime.memcpyDeviceToHost,
            self._stream.ptr,
        )
        self.synchronize()

    def download_async(self, device: Array, out: Array) -> None:
        self._copies.wait_event(self._stream.record())
        self._runtime.memcpyAsync(
            out.ctypes.data,
            address(device),
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
        pointer = address(out)
        self._runtime.memsetAsync(pointer, 0, out.nbytes, self._stream.ptr)

    def synchronize(self) -> None:
        self._rejoin()
        self._stream.synchronize()

    def is_idle(self) -> bool:
        self._rejoin()
        return bool(self._stream.done)

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

    def gemm(self, a: Array, b: Array, out: Array, *, add: bool) -> None:
        self._gemm.multiply(a, b, out, add=add)

    def libraries(self) -> Libraries:
        attention = opened("cuDNN", self._attention)
        return Libraries(attention, opened("cuBLASLt", self._fused_gemm))

    def _attention(self) -> CudnnAttention:
        import cudnn

        handle = cudnn.create_handle()
        cudnn.set_stream(handle=handle, stream=self._stream.ptr)
        return CudnnAttention(cudnn, handle)

    def _fused_gemm(self) -> LtGemm:
        from nvmath.bindings import cublasLt

        return LtGemm(cublasLt, self._workspace, self._stream.ptr, tf32=self._tf32)

    def capture(self, work: Callable[[], None]) -> Callable[[], None]:
        self._stream.begin_capture()
        try:
            work()
            self._rejoin()
        except BaseException:
            # What was sent off may not have been rejoined, which would hide what went wrong.
            self._under_way = False
            with contextlib.suppress(self._runtime.CUDARuntimeError):
                self._stream.end_capture()
            raise
        graph = self._stream.end_capture()

        def replay() -> None:
            graph.launch(self._stream)

        return replay


class _Owner:
    """Stands for memory that CuPy does not own."""


def _load_cublas() -> ctypes.CDLL:
    """Return the cuBLAS that CuPy has, or would have."""
    from cuda.pathfinder import load_nvidia_dynamic_lib

    return ctypes.CDLL(load_nvidia_dynamic_lib("cublas").abs_path)
