"""The CUDA sources compile for the GPUs that they are meant for; the compiler itself needs none."""

from __future__ import annotations

import ctypes
import re
from importlib.metadata import files
from pathlib import Path

import pytest

from psdp.backend.gpu import cuda
from psdp.backend.gpu.cuda import OPTIONS, Source, all_sources

SOURCES = [*all_sources(), *(s for s in all_sources(head=128) if s.tile)]
REPORT = re.compile(r"ptxas\s+(info\s+:|\.) ")
MEMORY = re.compile(r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads")
ARCHITECTURES = ["sm_80", "sm_90"]  # A100, H100
PAIRS = [
    (source, architecture)
    for number, source in enumerate(SOURCES)
    for at, architecture in enumerate(ARCHITECTURES)
    # Those with tiles take seconds: one of the two does for each.
    if source.tile is None or at == number % 2
]
CODE = {path.name: path.read_text("utf-8") for path in Path(cuda.__file__).parent.glob("*.cu*")}
MACROS = sorted(
    {option.partition("=")[0][2:] for source in SOURCES for option in source.definitions()}
)


def name(part: Source | str) -> str:
    return part if isinstance(part, str) else " ".join(map(str, part))


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


@pytest.mark.parametrize(("source", "architecture"), PAIRS, ids=name)
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
    wide = source.tile is not None and source.tile.head > 64
    assert wide or set(used) == {(0, 0, 0)}


def test_the_compiler_would_say_what_is_wrong(nvrtc: ctypes.CDLL) -> None:
    status, log, _ = compile_with(nvrtc, Source("adam.cu", "float32", "float32"), "-DREAL=nothing")
    assert status != 0
    assert "nothing" in log


@pytest.mark.parametrize("macro", MACROS)
def test_what_python_defines_no_source_defines_again(macro: str) -> None:
    again = re.compile(rf"#define {macro}\b|\b(const|constexpr) int\b[^;]*\b{macro} =")
    assert [name for name, text in CODE.items() if again.search(text)] == []
    assert any(re.search(rf"\b{macro}\b", text) for text in CODE.values()), "nobody reads it"


@pytest.mark.parametrize("name", sorted(CODE))
def test_no_source_writes_the_sizes_of_warps_tiles_and_blocks_as_numbers(name: str) -> None:
    code = re.sub(r"//.*", "", CODE[name])
    code = re.sub(r"(>>|<<) \d+", "", code)  # bits of a word
    assert re.findall(r"\b(?:32|64|128|256|512|1024)\b", code) == []
