"""What is installed is found from any folder, one that holds a folder of the same name too."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

import psdp

PLAIN = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}


def answer(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *words], cwd=folder, env=PLAIN, capture_output=True, text=True, timeout=60
    )


@pytest.fixture
def beside(tmp_path: Path) -> Path:
    """A folder that holds a folder psdp, as the parent of a clone does."""
    found = answer(tmp_path, "-c", "import psdp; print(psdp.__file__)").stdout.strip()
    if not found or not Path(found).samefile(psdp.__file__):
        pytest.skip("this tree is not what is installed")
    (tmp_path / "psdp" / "tests").mkdir(parents=True)
    return tmp_path


@pytest.mark.parametrize("command", ["launch", "worker"])
def test_a_folder_psdp_is_not_in_the_way(beside: Path, command: str) -> None:
    ended = answer(beside, "-m", f"psdp.{command}", "--version")
    assert (ended.stdout, ended.stderr) == (f"psdp {psdp.__version__}\n", "")


@pytest.mark.mpi
@pytest.mark.one_mpi
def test_nor_of_the_ranks_that_the_launcher_starts(beside: Path) -> None:
    ended = answer(beside, *["-m", "psdp.launch", "-n", "2", "--quiet", "--corpus", "nowhere"])
    assert "nowhere does not exist" in ended.stderr
