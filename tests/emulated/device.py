"""A GPU that is none: psdp's CUDA kernels compiled for this CPU, on NumPy arrays.

It shows what the kernels compute and that they wait where they must; how fast they are it cannot.
"""

from __future__ import annotations

import ctypes
import fcntl
import hashlib
import json
import mmap
import os
import re
import subprocess
import weakref
from collections.abc import Callable
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
from emulated.blas import Cublas

from psdp.backend.gpu.cublas import WORKSPACE_BYTES, CublasGemm
from psdp.backend.gpu.cuda import Source
from psdp.backend.gpu.cuda.tiles import WARP
from psdp.backend.gpu.libraries import NO_LIBRARIES, Libraries
from psdp.errors import DeviceMemoryError
from psdp.params import Array

HEADER = Path(__file__).with_name("cuda_on_host.h")
SHARED_BYTES = 232448
"""Of a block, as on an H100."""

_KERNEL = re.compile(r"__global__ void\s+(?:__launch_bounds__\(\w+\)\s+)?(\w+)\(")


@cache
def compiled(source: Source, folder: Path) -> ctypes.PyDLL:
    """Return a library with a function run_NAME for every kernel of a source."""
    text = source.text()
    launches = "\n".join(
        f'extern "C" void run_{name}(const host::Launch *launch, void **arguments) '
        f"{{ host::run({name}, *launch, arguments); }}"
        for name in _KERNEL.findall(text)
    )
    whole = f'#include "{HEADER}"\n{text}\n{launches}\n'
    digest = hashlib.sha256((whole + HEADER.read_text() + repr(source)).encode()).hexdigest()[:16]
    library, code = folder / f"{digest}.so", folder / f"{digest}.cpp"
    with open(folder / f"{digest}.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # of several ranks one compiles, and the others wait
        if not library.exists():
            code.write_text(whole)
            options = ["-std=c++17", "-O1", "-fPIC", "-shared", "-w", *source.definitions()]
            options += [f"-DEMULATED_WARP={WARP}", f"-DEMULATED_SHARED={SHARED_BYTES}"]
            made = str(library.with_suffix(".made"))
            subprocess.run(["c++", *options, "-o", made, str(code)], check=True, timeout=100)
            os.replace(made, library)
    return ctypes.PyDLL(str(library))  # of the ranks that are threads, one at a time


class Launch(ctypes.Structure):
    _fields_ = (
        ("grid", ctypes.c_uint * 3),
        ("block", ctypes.c_uint),
        ("shared", ctypes.c_uint),
    )


class DeviceArray(np.ndarray[Any, Any]):
    """An array that says where it lies as CuPy's do."""

    @property
    def data(self) -> Any:  # type: ignore[override]
        return SimpleNamespace(ptr=self.ctypes.data)


class StrictArray(DeviceArray):
    """An array that refuses what CuPy's do: to be mixed with NumPy's, or read by NumPy's functions
    that are no operation on elements. Operations on it come after all that was asked before."""

    device: EmulatedDevice | None = None

    def __array_finalize__(self, source: Any) -> None:
        self.device = getattr(source, "device", None)

    def _in_turn(self, *others: Any, what: str) -> None:
        for other in others:
            if isinstance(other, np.ndarray) and other.ndim and not isinstance(other, DeviceArray):
                raise TypeError(f"{what} of an array on a GPU and one on the host")
        if self.device is not None:
            self.device.synchronize()

    def __array_ufunc__(
        self, ufunc: np.ufunc, method: str, *inputs: Any, out: tuple[Any, ...] = (), **how: Any
    ) -> Any:
        self._in_turn(*inputs, *out, what=ufunc.__name__)
        outs = tuple(map(np.asarray, out))
        plain = [np.asarray(x) if isinstance(x, DeviceArray) else x for x in inputs]
        result = getattr(ufunc, method)(*plain, **(how | {"out": outs} if outs else how))
        return out[0] if out else np.asarray(result).view(StrictArray)

    def __array_function__(self, function: Any, types: Any, args: Any, how: Any) -> Any:
        if function is not np.clip:
            raise TypeError(f"{function.__name__} of an array on a GPU")
        self._in_turn(what="np.clip")
        return super().__array_function__(function, types, args, how)

    def __setitem__(self, key: Any, value: Any) -> None:
        self._in_turn(value, what="an assignment")
        super().__setitem__(key, value)


class Operations:
    """NumPy, as a device has it: what an operation on elements writes to, it writes in its turn.

    Args:
        do: has something done in its turn.
    """

    def __init__(self, do: Callable[[Callable[[], Any]], None]) -> None:
        self._do = do

    def __getattr__(self, name: str) -> Any:
        function = getattr(np, name)
        if not isinstance(function, np.ufunc) and function is not np.max:
            return function

        def operation(*operands: Any, out: Any = None, **how: Any) -> Any:
            if out is None:
                return function(*operands, **how)
            arrays = [x for x in (*operands, out) if isinstance(x, np.ndarray) and x.ndim]
            if not all(isinstance(x, DeviceArray) for x in arrays):
                raise TypeError(f"{name} of an array on a GPU and one on the host")
            plain = [np.asarray(x) if isinstance(x, DeviceArray) else x for x in operands]
            written = np.asarray(out)

            @np.errstate(all="ignore")
            def run() -> None:
                function(*plain, out=written, **how)

            self._do(run)
            return out

        return operation


class EmulatedDevice:
    """What a GPU backend asks of a device, done by this CPU at once.

    Args:
        folder: for compiled kernels.
        free: bytes of its memory that it says are free.
        room: bytes that it can really give.
        apart: whether its arrays refuse what those of a GPU do, and it puts off all that it is
            asked for until it is waited for; otherwise they are NumPy's, and it is done at once.

    Attributes:
        launches: names of the kernels that ran, in order.
        offered: libraries that it says it has.
    """

    capability = 90
    shared_bytes = SHARED_BYTES

    def __init__(
        self, folder: Path, free: int = 2**40, room: int = 2**40, *, apart: bool = False
    ) -> None:
        self.name = "emulated GPU"
        self.xp = Operations(self.do)
        self._folder, self._free, self._room = folder, free, room
        self._apart = apart
        self._queue: list[Callable[[], None]] = []
        self._freed: list[Array] = []
        self.launches: list[str] = []
        self._recording: list[Callable[[], None]] | None = None
        # Apart from all that is counted: it was taken before anybody asked what is free.
        self.workspace = np.zeros(WORKSPACE_BYTES + 256, np.uint8).view(DeviceArray)
        self.workspace = self.workspace[-self.workspace.ctypes.data % 256 :][:WORKSPACE_BYTES]
        self._gemm = CublasGemm(Cublas(self.do), 0, self.workspace, tf32=False)
        self.offered = NO_LIBRARIES
        self._exported: list[bytes] = []

    def libraries(self) -> Libraries:
        return self.offered

    def empty(self, shape: tuple[int, ...], dtype: Any) -> Array:
        array = np.empty(shape, dtype)
        # What nobody wrote must not look like a result.
        array.reshape(-1).view(np.uint8)[...] = 0xFF
        return self._take(array)

    def zeros(self, shape: tuple[int, ...], dtype: Any) -> Array:
        return self._take(np.zeros(shape, dtype))

    def holding(self, values: Array) -> Array:
        """Return an array with these values."""
        array = self.empty(values.shape, values.dtype)
        np.copyto(array, values)
        return array

    def _take(self, array: Array) -> Array:
        self._room -= array.nbytes
        if self._room < 0:
            raise DeviceMemoryError(f"{array.nbytes} bytes more were needed")
        return self._own(array)

    def _own(self, array: Array) -> Array:
        if not self._apart:
            return array.view(DeviceArray)
        own = array.view(StrictArray)
        own.device = self
        # What was put off may still use memory that nobody else has.
        weakref.finalize(own, self._freed.append, array).atexit = False
        return own

    def memory(self) -> tuple[int, int]:
        return self._free, 2**40

    def pin(self, vector: Array) -> bool:
        return True

    def download_async(self, device: Array, out: Array) -> None:
        assert isinstance(device, DeviceArray)
        assert not isinstance(out, DeviceArray)
        self.do(lambda: np.copyto(out, np.asarray(device)))

    def copy(self, source: Array, out: Array) -> None:
        assert isinstance(source, DeviceArray)
        assert isinstance(out, DeviceArray)
        self.do(lambda: np.copyto(np.asarray(out), np.asarray(source)))

    def export(self, nbytes: int) -> tuple[Array, bytes]:
        """As psdp.transport.shared does: a file in memory, that others see below /proc."""
        file = os.memfd_create("psdp-emulated-gpu")
        os.ftruncate(file, nbytes)
        seen = self._take(np.frombuffer(mmap.mmap(file, nbytes), np.uint8))
        handle = json.dumps([os.getpid(), file, nbytes]).encode()
        self._exported.append(handle)
        return seen, handle

    def open(self, handle: bytes) -> Array:
        if handle in self._exported:
            raise OSError(0, "a process cannot open what it exported")
        process, number, nbytes = json.loads(handle)
        file = os.open(f"/proc/{process}/fd/{number}", os.O_RDWR)
        try:
            return self._own(np.frombuffer(mmap.mmap(file, nbytes), np.uint8))
        finally:
            os.close(file)

    def upload(self, host: Array, out: Array) -> None:
        assert isinstance(out, DeviceArray)
        assert not isinstance(host, DeviceArray)
        assert self._recording is None, "it would always be the same"
        kept = host.copy()
        self.do(lambda: np.copyto(np.asarray(out), kept))

    def download(self, device: Array, out: Array) -> None:
        assert isinstance(device, DeviceArray)
        assert not isinstance(out, DeviceArray)
        self.synchronize()
        np.copyto(out, np.asarray(device))

    def clear(self, out: Array) -> None:
        assert isinstance(out, DeviceArray)
        assert out.flags.c_contiguous, "cleared at once"
        self.do(lambda: out.fill(0))

    def synchronize(self) -> None:
        queue, self._queue = self._queue, []
        for step in queue:
            step()
        self._freed.clear()

    def is_idle(self) -> bool:
        if self._queue:
            self._queue.pop(0)()
        return not self._queue

    def launch(
        self,
        source: Source,
        kernel: str,
        grid: tuple[int, ...],
        block: int,
        arguments: tuple[Any, ...],
        shared: int = 0,
    ) -> None:
        function = getattr(compiled(source, self._folder), f"run_{kernel}")
        values = [_c_value(argument) for argument in arguments]
        pointers = (ctypes.c_void_p * len(values))(
            *[ctypes.cast(ctypes.pointer(value), ctypes.c_void_p) for value in values]
        )
        where = Launch((ctypes.c_uint * 3)(*grid, *[1] * (3 - len(grid))), block, shared)

        def run() -> None:
            function(ctypes.byref(where), pointers)

        self.do(run)
        self.launches.append(kernel)
        del arguments

    def gemm(self, a: Array, b: Array, out: Array, *, add: bool) -> None:
        self._gemm.multiply(a, b, out, add=add)

    def capture(self, work: Callable[[], None]) -> Callable[[], None]:
        """Return what does again what ``work`` asks for, which is not done now."""
        self._recording = recorded = []
        try:
            work()
        finally:
            self._recording = None
        return lambda: [self.do(step) for step in recorded] and None

    def do(self, step: Callable[[], None]) -> None:
        """Do something in its turn: now, when this device is waited for, or whenever what is being
        captured is done."""
        if self._recording is not None:
            self._recording.append(step)
        elif self._apart:
            self._queue.append(step)
        else:
            step()


def _c_value(argument: Any) -> Any:
    match argument:
        case None:
            return ctypes.c_void_p(0)
        case DeviceArray():
            return ctypes.c_void_p(argument.ctypes.data)
        case int():
            return ctypes.c_longlong(argument)
        case float():
            return ctypes.c_double(argument)
    raise TypeError(f"a kernel takes the device's arrays, int and float, got {argument!r}")
