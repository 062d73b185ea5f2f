"""The CUDA sources compile for the GPUs that they are meant for; the compiler itself needs none."""

from __future__ import annotations

import ctypes
from importlib.metadata import files

import pytest

from psdp.backend.cuda import OPTIONS, Source, all_sources

SOURCES = [*all_sources(), *(s for s in all_sources(head=128) if s.head)]
ARCHITECTURES = ["sm_80", "sm_90"]  # A100, H100


@pytest.fixture(scope="module")
def nvrtc() -> ctypes.CDLL:
    """NVIDIA's run-time compiler, out of its wheel."""
    installed = files("nvidia-cuda-nvrtc-cu12") or []
    [library] = [file for file in installed if file.name.startswith("libnvrtc.so")]
    return ctypes.CDLL(str(library.locate()))


def compile_with(nvrtc: ctypes.CDLL, source: Source, *options: str) -> tuple[int, str, int]:
    """Return the compiler's status, what it said, and the size of the machine code."""
    program, size = ctypes.c_void_p(), ctypes.c_size_t()
    text, name = source.text().encode(), source.file.encode()
    assert nvrtc.nvrtcCreateProgram(ctypes.byref(program), text, name, 0, None, None) == 0
    given = [option.encode() for option in (*OPTIONS, *source.definitions(), *options)]
    status = nvrtc.nvrtcCompileProgram(program, len(given), (ctypes.c_char_p * len(given))(*given))
    nvrtc.nvrtcGetProgramLogSize(program, ctypes.byref(size))
    log = ctypes.create_string_buffer(size.value)
    nvrtc.nvrtcGetProgramLog(program, log)
    size.value = 0
    nvrtc.nvrtcGetCUBINSize(program, ctypes.byref(size))
    nvrtc.nvrtcDestroyProgram(ctypes.byref(program))
    return status, log.value.decode(), size.value


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("source", SOURCES, ids=lambda s: " ".join(map(str, s)))
def test_every_source_compiles_without_a_warning(
    nvrtc: ctypes.CDLL, source: Source, architecture: str
) -> None:
    status, log, size = compile_with(nvrtc, source, f"--gpu-architecture={architecture}")
    assert (status, log) == (0, "")
    assert size > 1000


def test_the_compiler_would_say_what_is_wrong(nvrtc: ctypes.CDLL) -> None:
    status, log, _ = compile_with(nvrtc, Source("adam.cu", "float32", "float32"), "-DREAL=nothing")
    assert status != 0
    assert "nothing" in log
