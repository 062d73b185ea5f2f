"""The CUDA sources compile for the GPUs that they are meant for; the compiler itself needs none."""

from __future__ import annotations

import ctypes
import re
from importlib.metadata import files

import pytest

from psdp.backend.gpu.cuda import OPTIONS, Source, all_sources

SOURCES = [*all_sources(), *(s for s in all_sources(head=128) if s.head)]
REPORT = re.compile(r"ptxas\s+(info\s+:|\.) ")
MEMORY = re.compile(r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads")
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
    how = f"--gpu-architecture={architecture}", "--ptxas-options=-v"
    status, log, size = compile_with(nvrtc, source, *how)
    assert status == 0, log
    lines = log.splitlines()
    assert [line for line in lines if not REPORT.match(line)] == []
    assert size > 1000
    used = [tuple(map(int, found.groups())) for line in lines if (found := MEMORY.search(line))]
    assert len(used) == source.text().count("__global__")
    # The widest heads leave some registers short. All else stays in them.
    assert source.head > 64 or set(used) == {(0, 0, 0)}


def test_the_compiler_would_say_what_is_wrong(nvrtc: ctypes.CDLL) -> None:
    status, log, _ = compile_with(nvrtc, Source("adam.cu", "float32", "float32"), "-DREAL=nothing")
    assert status != 0
    assert "nothing" in log
