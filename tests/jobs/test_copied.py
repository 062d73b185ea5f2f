"""Real jobs whose checkpoints are copied to an S3-compatible server."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import fsspec
import pytest
from mpi import ROOT, run_job
from stores import BUCKET, s3_server
from tiny import TINY, failing, summary, train, write_corpus

from psdp.launch.mpirun import find_launcher, has_ulfm, version_of
from psdp.processes import kill_all

VERSION = version_of(find_launcher(Path(sys.prefix), os.environ.get("PATH", os.defpath)))

pytestmark = [pytest.mark.mpi, pytest.mark.one_mpi, pytest.mark.timeout(120)]

URL = f"s3://{BUCKET}/runs/mine"
FLAGS = ("--max-steps", "150", "--checkpoint-every", "10", "--eval-every", "0")


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    write_corpus(tmp_path / "corpus.txt")
    with s3_server():
        yield tmp_path


def test_a_run_that_was_killed_goes_on_from_its_url_in_an_empty_folder_with_the_same_bits(
    folder: Path,
) -> None:
    whole = train(folder, 3, *FLAGS, "--out", "whole")
    assert whole.returncode == 0, whole.stdout
    kill_at_the_first_copy(folder)
    shutil.rmtree(folder / "run")
    flags = ("--resume", URL, "--checkpoint-to", URL, "--max-steps", "150", "--straggler", "1:1")
    rest = train(folder, 3, *flags)
    assert rest.returncode == 0, rest.stdout
    assert f"psdp: fetching the newest checkpoint at {URL} into runs/mine\n" in rest.stdout
    assert f"checkpoints are copied to {URL}\n" in rest.stdout
    ended = summary(folder / "runs" / "mine")
    assert ended["weights_sha256"] == summary(folder / "whole")["weights_sha256"]
    assert (ended["stopped_by"], ended["copies_failed"]) == ("budget", 0)
    generate = [sys.executable, "-m", "psdp.generate", "--checkpoint", URL, "--tokens", "1"]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    assert subprocess.run(generate, env=environment, cwd=folder, timeout=60).returncode == 0


@pytest.mark.skipif(not has_ulfm(VERSION), reason="this MPI ends with its first rank")
def test_who_takes_over_copies_to_the_url_too(folder: Path) -> None:
    flags = (*TINY, "--corpus", "corpus.txt", "--checkpoint-every", "5", "--eval-every", "5")
    code = failing({0: 60})
    ended = run_job(
        4, code, "--standby", *flags, "--out", "run", "--checkpoint-to", URL, cwd=folder
    )
    assert ended.returncode == 0, ended.stdout
    told = summary(folder / "run")
    assert (told["takeovers"], told["copies_failed"], told["stopped_by"]) == (1, 0, "budget")
    files, here = fsspec.filesystem("s3"), folder / "run" / "checkpoints"
    latest = max(path.name for path in here.glob("step-*"))
    for name in f"{latest}/checkpoint.json", "best.json":
        there = files.cat_file(f"{BUCKET}/runs/mine/checkpoints/{name}")
        assert there == (here / name).read_bytes()
    assert json.loads(files.cat_file(f"{BUCKET}/runs/mine/summary.json")) == told


def kill_at_the_first_copy(folder: Path) -> None:
    """Start a job, slow enough for that, and kill all of it once something of it is at the URL."""
    command = [
        sys.executable, "-m", "psdp.launch", "-n", "3", "--corpus", "corpus.txt", *TINY, *FLAGS,
        "--out", "run", "--checkpoint-to", URL, "--straggler", "1:50",
    ]  # fmt: skip
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    with (folder / "log").open("w") as log:
        job = subprocess.Popen(
            command, cwd=folder, stdout=log, stderr=log, start_new_session=True, env=environment
        )
    files = fsspec.filesystem("s3")
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and job.poll() is None:
        files.invalidate_cache()
        if files.glob(f"{BUCKET}/runs/mine/checkpoints/*/checkpoint.json"):
            break
        time.sleep(0.05)
    kill_all(job.pid)
    assert job.wait() == -signal.SIGKILL, (folder / "log").read_text()
