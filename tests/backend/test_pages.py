"""Memory on large pages."""

from __future__ import annotations

import mmap

import numpy as np
import pytest

from psdp.backend.cpu.pages import LEAST, LINE, SLAB, LargePages

linux = pytest.mark.skipif(not hasattr(mmap, "MADV_HUGEPAGE"), reason="asks Linux for large pages")


@linux
def test_arrays_are_aligned_zeros_that_do_not_overlap() -> None:
    pages = LargePages()
    shapes = [(LEAST,), (3, LEAST + 1), (SLAB // 8, 5), (LEAST, 7), (2, SLAB // 16)]
    arrays = [pages.zeros(shape, "f4") for shape in shapes]
    for number, array in enumerate(arrays):
        assert array.ctypes.data % LINE == 0
        assert not array.any()
        array[...] = number
    for number, (array, shape) in enumerate(zip(arrays, shapes, strict=True)):
        assert array.shape == shape
        assert (array == number).all()


@pytest.mark.parametrize("shape", [(), (0,), (0, 5), (3, 5)])
def test_small_arrays_and_empty_ones(shape: tuple[int, ...]) -> None:
    array = LargePages().zeros(shape, np.intp)
    assert array.shape == shape
    assert array.dtype == np.intp
    assert not array.any()


@linux
def test_an_array_outlives_its_pages() -> None:
    array = LargePages().zeros((LEAST,), "f8")
    array[...] = 3
    assert array.sum() == 3 * LEAST
