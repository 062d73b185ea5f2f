"""The emulated GPU finds what it is there to find: missing barriers, and memory not written."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from emulated.device import EmulatedDevice

from psdp.backend.cuda import Source

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
