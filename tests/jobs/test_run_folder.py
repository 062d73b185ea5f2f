"""Real jobs and their run folder: who has it, and what a job leaves that is killed."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from mpi import ROOT
from tiny import TINY, summary, train, write_corpus

from psdp.checkpoint import find_checkpoint, read_manifest
from psdp.checkpoint.read import verify

pytestmark = [pytest.mark.mpi, pytest.mark.one_mpi, pytest.mark.timeout(120)]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_corpus(tmp_path / "corpus.txt")
    return tmp_path


@contextlib.contextmanager
def endless(folder: Path, *flags: str) -> Iterator[subprocess.Popen[bytes]]:
    """Start a job into ``run`` that does not end by itself; yield it with its first checkpoints."""
    command = [
        sys.executable, "-m", "psdp.launch", "-n", "4", "--corpus", "corpus.txt", *TINY,
        "--max-steps", "1000000", "--checkpoint-every", "1", "--out", "run", *flags,
    ]  # fmt: skip
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    with (folder / "log").open("w") as log:
        job = subprocess.Popen(
            command, cwd=folder, stdout=log, stderr=log, start_new_session=True, env=environment
        )
    try:
        deadline = time.monotonic() + 60
        while not list(folder.glob("run/checkpoints/step-*")) and time.monotonic() < deadline:
            time.sleep(0.05)
        yield job
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(job.pid, signal.SIGKILL)
        job.wait()


def test_a_folder_is_one_jobs_until_that_is_killed_and_what_it_left_is_gone_on_from(
    folder: Path,
) -> None:
    with endless(folder, "--mode", "async", "--servers", "2") as job:
        rank_0 = json.loads((folder / "run" / "lock.json").read_text())["pid"]
        second = train(folder, 4, "--resume", "run", "--servers", "2")
        assert second.returncode == 6, second.stdout
        assert f"psdp: rank 0: run is in use by a job whose rank 0 is process {rank_0} on " in (
            second.stdout
        )
        assert job.poll() is None
        os.kill(rank_0, signal.SIGKILL)
        job.wait(timeout=30)
    for path in (folder / "run" / "checkpoints").glob("step-*"):
        verify(read_manifest(path))
    newest = find_checkpoint(folder / "run")
    os.truncate(newest / "shard-01-of-02.safetensors", 1000)
    with (folder / "run" / "metrics.jsonl").open("a") as metrics:
        metrics.write('{"kind": "tra')
    steps = str(read_manifest(newest).step + 2)
    rest = train(folder, 3, "--resume", "run", "--servers", "1", "--max-steps", steps)
    assert rest.returncode == 0, rest.stdout
    passed = f"run/checkpoints/{newest.name}/shard-01-of-02.safetensors is damaged: expected "
    assert f"psdp: passed over a checkpoint that is not whole: {passed}" in rest.stdout
    ended = summary(folder / "run")
    assert (ended["stopped_by"], ended["servers"]) == ("budget", 1)
    lines = (folder / "run" / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["kind"] for line in lines].count("resume") == 1
