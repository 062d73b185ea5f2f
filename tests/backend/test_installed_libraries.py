"""cuDNN and cuBLASLt as they are installed (with the extra cuda12 or cuda13), without a GPU: cuDNN
plans psdp's attention for an H100, and the emulated libraries are numbered as the real ones."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import sysconfig
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from emulated.blas import CublasLt
from emulated.installed import described

TESTS = Path(__file__).parents[1]
PACKAGES = Path(sysconfig.get_path("purelib"))


@pytest.fixture(scope="module")
def driver(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with libcuda.so.1 and libcudart.so that stand for an H100's."""
    folder = tmp_path_factory.mktemp("driver")
    source = str(TESTS / "emulated" / "h100.c")
    for name in ("libcuda.so.1", "libcudart.so"):
        command = ["cc", "-shared", "-fPIC", f"-Wl,-soname,{name}", "-o", str(folder / name)]
        subprocess.run([*command, source], check=True, timeout=60)
    return folder


def ask(driver: Path, question: Any) -> Any:
    """Ask :mod:`emulated.installed`, in a process that finds that driver."""
    libraries = [str(driver), *map(str, sorted(PACKAGES.glob("nvidia/*/lib")))]
    found = {
        "LD_LIBRARY_PATH": ":".join(libraries),
        "CUDNN_FRONTEND_CUDART_LIB_NAME": str(driver / "libcudart.so"),
        "PYTHONPATH": ":".join([str(TESTS), str(TESTS.parent)]),
    }
    command = [sys.executable, "-m", "emulated.installed", json.dumps(question)]
    environment = os.environ | found
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=100)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.skipif(find_spec("cudnn") is None, reason="nvidia-cudnn-frontend is not installed")
def test_cudnn_plans_attention_for_an_h100(driver: Path) -> None:
    gpt2, gpt2_dropped, baby, odd, head_of_12, few = ask(
        driver,
        [
            (16, 12, 1024, 64, 0.0),
            (16, 12, 1024, 64, 0.1),
            (64, 6, 256, 64, 0.2),
            (70, 2, 37, 40, 0.1),
            (16, 2, 1024, 12, 0.0),
            (1, 12, 1024, 64, 0.0),
        ],
    )
    for workspace in (gpt2, gpt2_dropped, baby, odd):
        assert 0 < workspace < 2**29
    assert "multiple of 8" in head_of_12
    assert few == "1 x 1024 tokens are few"


@pytest.mark.skipif(find_spec("nvmath") is None, reason="nvmath-python is not installed")
def test_the_emulated_cublaslt_is_numbered_as_the_real_one(driver: Path) -> None:
    real, emulated = ask(driver, "cublasLt"), described(CublasLt(lambda step: step()))
    for kind, numbers in emulated.items():
        assert real[kind].items() >= numbers.items()
