"""One job at a time writes a run folder; one that was late writes nothing more."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from psdp.errors import CheckpointError
from psdp.records.folder import RunFolder
from psdp.records.lock import RunLock

HOLDER = """
import sys, time
from pathlib import Path
from psdp.records.lock import RunLock
lock = RunLock(Path(sys.argv[1]))
print("held", flush=True)
time.sleep(600)
"""


def test_a_second_holder_is_refused_and_told_who_has_it(tmp_path: Path) -> None:
    lock = RunLock(tmp_path)
    with pytest.raises(CheckpointError) as refused:
        RunLock(tmp_path)
    text = str(refused.value)
    assert text.startswith(
        f"{tmp_path} is in use by a job whose rank 0 is process {os.getpid()} on "
    )
    assert f"remove {tmp_path / 'lock.json'} to take the folder over" in text
    lock.check()
    lock.release()
    RunLock(tmp_path).check()


def test_a_lock_ends_with_its_process_however_that_ends(tmp_path: Path) -> None:
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}
    command = [sys.executable, "-c", HOLDER, str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, env=environment) as other:
        try:
            assert other.stdout is not None
            assert other.stdout.readline() == b"held\n"
            with pytest.raises(CheckpointError, match=f"rank 0 is process {other.pid} on "):
                RunLock(tmp_path)
        finally:
            other.kill()
    RunLock(tmp_path).check()


def test_a_holder_whose_lock_was_lost_writes_nothing_more(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "run")
    folder.create()
    folder.append_metrics({"version": 1})
    (folder.path / "lock.json").unlink()  # as a user may, or as if a lease had run out
    with pytest.raises(CheckpointError, match="its lock was lost, and another job has it"):
        folder.check()
    late = RunLock(folder.path)
    before = {path: path.read_bytes() for path in folder.path.iterdir()}
    for write in (folder.append_metrics, folder.write_summary, folder.write_config):
        with pytest.raises(CheckpointError, match="its lock was lost, and a job whose rank 0 is"):
            write({})
    assert {path: path.read_bytes() for path in folder.path.iterdir()} == before
    late.check()


@pytest.mark.parametrize("content", ["", "[]", "{", '{"token": 7}', "\xff"])
def test_a_lock_file_that_says_nothing_is_nobodys(tmp_path: Path, content: str) -> None:
    (tmp_path / "lock.json").write_text(content, encoding="latin-1")
    lock = RunLock(tmp_path)
    lock.check()
    assert json.loads((tmp_path / "lock.json").read_text())["pid"] == os.getpid()
    (tmp_path / "lock.json").write_text(content, encoding="latin-1")
    with pytest.raises(CheckpointError, match="its lock was lost"):
        lock.check()
    with pytest.raises(CheckpointError, match="is in use by another job"):
        RunLock(tmp_path)


def test_where_there_are_no_locks_the_last_one_has_it_and_is_warned(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse(_descriptor: int, _how: int) -> None:
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))

    monkeypatch.setattr(fcntl, "flock", refuse)
    first, second = RunLock(tmp_path), RunLock(tmp_path)
    assert f"{tmp_path} cannot be locked here (Function not" in capsys.readouterr().err
    second.check()
    with pytest.raises(CheckpointError, match="its lock was lost"):
        first.check()


def test_a_file_that_is_replaced_while_it_is_locked_is_locked_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    flock, calls = fcntl.flock, []

    def slowly(descriptor: int, how: int) -> None:
        flock(descriptor, how)
        if not calls:
            (tmp_path / "lock.json").unlink()
        calls.append(descriptor)

    monkeypatch.setattr(fcntl, "flock", slowly)
    RunLock(tmp_path).check()
    assert len(calls) == 2


def test_a_folder_that_is_gone_is_named(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"cannot write .*lock\.json: No such file"):
        RunLock(tmp_path / "none")
