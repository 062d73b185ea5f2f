"""A folder appears when it is whole, and nothing is left of one that was not."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from psdp.appearing import appearing
from psdp.errors import DataError

KILLED = """
import os, signal, sys
from pathlib import Path
from psdp.appearing import appearing
from psdp.errors import DataError
with appearing(Path(sys.argv[1]), DataError) as beside:
    (beside / "file").write_text("half")
    os.kill(os.getpid(), signal.SIGKILL)
"""


def make(folder: Path) -> None:
    with appearing(folder, DataError) as beside:
        (beside / "file").write_text("whole")


def test_what_a_killed_process_left_goes_and_nothing_else(tmp_path: Path) -> None:
    (tmp_path / ".out.2024").mkdir()  # a person's own
    subprocess.run([sys.executable, "-c", KILLED, str(tmp_path / "out")], check=False)
    with appearing(tmp_path / "out", DataError) as beside:  # another is at work
        assert {path.name for path in tmp_path.iterdir()} == {".out.2024", beside.name}
        with appearing(tmp_path / "out.5", DataError):
            pass
        beside.rmdir()
        (tmp_path / "out.5").rename(beside)
    assert {path.name for path in tmp_path.iterdir()} == {".out.2024", "out"}


def test_one_that_is_at_work_is_left_alone(tmp_path: Path) -> None:
    code = KILLED.replace("os.kill(os.getpid(), signal.SIGKILL)", "print(flush=True); input()")
    command = [sys.executable, "-c", code, str(tmp_path / "out")]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen(command, text=True, **pipes) as other:  # type: ignore[call-overload]
        other.stdout.readline()
        make(tmp_path / "out")
        assert (tmp_path / f".out.psdp-{other.pid}").is_dir()
        other.communicate("\n")
    assert other.returncode != 0  # it is there already
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


@pytest.mark.parametrize("empty", [".", "link", "deep/er"])
def test_a_folder_may_be_named_in_any_way(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, empty: str
) -> None:
    at = tmp_path / "at"
    at.mkdir()
    (tmp_path / "target").mkdir()
    (at / "link").symlink_to(tmp_path / "target")
    monkeypatch.chdir(tmp_path / "target" if empty == "." else at)
    make(Path(empty))
    assert ((at if empty != "." else tmp_path / "target") / empty / "file").exists()


def test_what_is_in_the_way_is_told_before_anything_is_written(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "link").symlink_to("nowhere")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").touch()
    for name, said in (("file", "no folder"), ("link", "no folder"), ("full", "not empty")):
        with pytest.raises(DataError, match=said), appearing(tmp_path / name, DataError):
            os.abort()  # nobody comes here
