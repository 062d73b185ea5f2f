"""The emulated GPU finds what it is there to find: missing barriers, and memory not written."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from emulated.device import EmulatedDevice

from psdp.backend.gpu.cuda import Source

REVERSE = """
extern "C" __global__ void reverse(float *x, long long size) {
    SHARED(float, copy);
    copy[threadIdx.x] = x[threadIdx.x];
    WAIT;
    x[threadIdx.x] = copy[size - 1 - threadIdx.x];
}
extern "C" __global__ void neighbour(float *x) {
    x[threadIdx.x] = __shfl_xor_sync(0xffffffffu, x[threadIdx.x], 1);
}
"""


class Text(Source):
    """A source of its own."""

    def text(self) -> str:
        return f"#define WAIT {self.file}\n{REVERSE}"

    def definitions(self) -> tuple[str, ...]:
        return ()


@pytest.mark.parametrize(("wait", "right"), [("__syncthreads()", True), ("", False)])
def test_a_missing_barrier_shows(kernel_folder: Path, wait: str, right: bool) -> None:
    device = EmulatedDevice(kernel_folder)
    x = device.holding(np.arange(70, dtype=np.float32))
    device.launch(Text(wait, "", ""), "reverse", (1,), 70, (x, 70), 4 * 70)
    assert np.array_equal(x, np.arange(70)[::-1]) == right
    assert np.isnan(x).any() != right


def test_lanes_of_a_warp_exchange_values(kernel_folder: Path) -> None:
    device = EmulatedDevice(kernel_folder)
    x = device.holding(np.arange(64, dtype=np.float32))
    device.launch(Text("__syncthreads()", "", ""), "neighbour", (1,), 64, (x,))
    assert x[:4].tolist() == [1, 0, 3, 2]
    assert x[62:].tolist() == [63, 62]


def test_fresh_memory_is_not_a_number(kernel_folder: Path) -> None:
    assert np.isnan(EmulatedDevice(kernel_folder).empty((3,), np.float32)).all()


def test_arrays_that_are_apart_refuse_what_those_of_a_gpu_do(kernel_folder: Path) -> None:
    device, host = EmulatedDevice(kernel_folder, apart=True), np.ones(3)
    x, y = device.zeros((3,), np.float64), device.empty((3,), np.float64)
    for mixed in (
        lambda: np.add(x, host, out=y),
        lambda: np.add(host, host, out=x),
        lambda: x.__setitem__(slice(1), host[:1]),
        lambda: np.copyto(x, host),
        lambda: np.empty_like(x),
    ):
        with pytest.raises(TypeError, match="of an array on a GPU"):
            mixed()
    np.add(np.clip(x, 1, 2, out=y), 1, out=y)
    x[...] = y
    device.download(x, host)
    assert host.tolist() == [2, 2, 2]


def test_what_is_asked_of_a_device_apart_is_done_once_it_is_waited_for(kernel_folder: Path) -> None:
    device, host = EmulatedDevice(kernel_folder, apart=True), np.ones(3)
    x, y = device.zeros((3,), np.float64), device.zeros((3,), np.float64)
    device.upload(host, x)
    device.copy(x, y)
    assert np.asarray(y).tolist() == [0, 0, 0]
    device.synchronize()
    assert np.asarray(y).tolist() == [1, 1, 1]
    device.clear(x)
    np.add(x, y, out=y)  # in the same order
    assert np.asarray(y).tolist() == [1, 1, 1]


def test_what_is_captured_is_done_when_it_is_asked_for(kernel_folder: Path) -> None:
    device = EmulatedDevice(kernel_folder)
    x = device.holding(np.ones(3))
    again = device.capture(lambda: device.clear(x))
    assert x.tolist() == [1, 1, 1]
    again()
    assert x.tolist() == [0, 0, 0]
    x += 2
    again()
    assert x.tolist() == [0, 0, 0]
