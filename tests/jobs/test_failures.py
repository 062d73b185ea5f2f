"""Wrong input and failures on real jobs: a message that names the culprit, and no rank left."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from mpi import ROOT
from tiny import RANK, TINY, at_gradient, metrics, summary, train, weights, write_corpus

pytestmark = [pytest.mark.mpi, pytest.mark.timeout(60)]

ENVIRONMENT = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_corpus(tmp_path / "corpus.txt")
    return tmp_path


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ("--servers 2", "--servers 2 leaves no rank to work"),
        ("--no-such-flag", "unrecognized arguments: --no-such-flag"),
        ("--corpus missing.txt", "missing.txt does not exist"),
        ("--out taken", "--out taken holds another run"),
        pytest.param(
            "--n-embd 30 --n-head 4",
            "--n-embd 30 is not divisible by --n-head 4",
            marks=pytest.mark.one_mpi,
        ),
        pytest.param(
            "--block-size 60000",
            "corpus too short for --block-size 60000",
            marks=pytest.mark.one_mpi,
        ),
        pytest.param("--resume nowhere", "no checkpoint at nowhere", marks=pytest.mark.one_mpi),
    ],
)
def test_wrong_input_is_told_once_and_nothing_is_written(
    folder: Path, flags: str, message: str
) -> None:
    (folder / "taken").mkdir()
    (folder / "taken" / "config.json").write_text("{}")
    before = sorted(folder.rglob("*"))
    job = train(folder, 2, *flags.split())
    assert job.returncode != 0
    assert job.stdout.count("psdp: ") == 1
    assert message in job.stdout
    assert sorted(folder.rglob("*")) == before


def test_one_rank_alone_is_told_the_right_command() -> None:
    job = subprocess.run(
        [sys.executable, "-m", "psdp.worker"], capture_output=True, text=True, timeout=30,
        env=ENVIRONMENT, check=False,
    )  # fmt: skip
    assert job.returncode == 2
    assert "mpirun -n 3 python -m psdp.worker" in job.stderr


def contents(run: Path) -> dict[Path, bytes]:
    """Return what lies in a run folder, but for who holds it."""
    files = (path for path in run.rglob("*") if path.is_file() and path.name != "lock.json")
    return {path: path.read_bytes() for path in files}


@pytest.mark.one_mpi
def test_a_resume_says_which_setting_differs(folder: Path) -> None:
    assert train(folder, 3, "--out", "run").returncode == 0
    before = contents(folder / "run")
    other = train(folder, 3, "--resume", "run", "--n-embd", "16")
    assert other.returncode == 6
    assert "--n-embd 16 differs from 32 of the run in run" in other.stdout
    more = train(folder, 4, "--resume", "run", "--virtual-workers", "3")
    assert more.returncode == 6
    assert "--virtual-workers 3 differs from 2 of the run in run" in more.stdout
    shard = folder / "run" / "checkpoints" / "step-000020-v000020" / "shard-00-of-01.safetensors"
    damaged = bytearray(shard.read_bytes())
    damaged[-100] ^= 1
    shard.write_bytes(damaged)
    broken = train(folder, 3, "--resume", str(shard.parent))
    assert broken.returncode == 6
    assert f"{shard} is damaged" in broken.stdout
    shard.write_bytes(before[shard])
    assert contents(folder / "run") == before


def test_ranks_with_different_settings_end_all(folder: Path) -> None:
    uneven = (
        "import os, sys\nfrom psdp.worker import main\n"
        f"sys.exit(main([*sys.argv[1:], '--lr', '0.5'] if {RANK} == 2 else None))\n"
    )
    job = train(folder, 3, "--out", "run", code=uneven)
    assert job.returncode == 2
    assert "rank 2 was started with --lr 0.5, rank 0 with 0.01" in job.stdout


@pytest.mark.one_mpi
def test_ranks_with_different_corpora_end_all(folder: Path) -> None:
    write_corpus(folder / "other.txt", words=3000)
    uneven = (
        "import os, sys\nfrom psdp.worker import main\n"
        f"sys.exit(main([*sys.argv[1:], '--corpus', 'other.txt'] if {RANK} == 1 else None))\n"
    )
    # A second --corpus adds to the first, so rank 1 reads more than the others.
    job = train(folder, 3, "--out", "run", code=uneven)
    assert job.returncode == 3
    assert "rank 2 read a corpus with sha256" in job.stdout
    assert not (folder / "run").exists()


def test_an_exception_in_one_worker_shows_its_traceback_and_loses_nothing(folder: Path) -> None:
    crash = at_gradient(5, 2, "raise ValueError('no such luck')")
    job = train(folder, 3, "--with-ft", "none", "--out", "run", code=crash)
    assert job.returncode != 0
    assert "psdp: rank 2 failed:\nTraceback" in job.stdout
    assert "ValueError: no such luck" in job.stdout
    assert summary(folder / "run")["stopped_by"] == "error"
    assert train(folder, 3, "--resume", "run").returncode == 0
    assert train(folder, 3, "--out", "whole").returncode == 0
    resumed, whole = summary(folder / "run"), summary(folder / "whole")
    assert resumed["weights_sha256"] == whole["weights_sha256"]


def test_a_killed_worker_ends_the_job_which_says_who_went_first(folder: Path) -> None:
    crash = at_gradient(5, 2, "os.kill(os.getpid(), 9)")
    job = train(folder, 3, "--with-ft", "none", "--out", "run", code=crash)
    assert job.returncode != 0
    assert "psdp.launch: the job has failed: rank 2 on" in job.stdout


def test_a_signal_to_one_worker_is_a_notice_and_the_others_finish(folder: Path) -> None:
    notice = at_gradient(5, 2, "os.kill(os.getpid(), 15)")
    flags = ("--mode", "async", "--max-steps", "800", "--jitter", "uniform:1:1.1")
    job = train(folder, 4, *flags, "--out", "run", code=notice)
    assert job.returncode == 0, job.stdout
    assert "rank 2 alone got SIGTERM: it hands over its workers and leaves" in job.stdout
    assert summary(folder / "run")["stopped_by"] == "budget"


def test_a_time_limit_ends_the_run_saved_and_asks_to_be_started_again(folder: Path) -> None:
    flags = ("--max-steps", "10000000", "--max-time", "14s", "--log-every", "1000")
    job = train(folder, 2, *flags, "--out", "run")
    assert job.returncode == 75, job.stdout
    assert summary(folder / "run")["stopped_by"] == "time limit"
    assert weights(folder / "run").size


def test_after_a_failure_a_run_may_go_on_by_itself_to_the_same_end(folder: Path) -> None:
    crash = at_gradient(15, 1, "os.kill(os.getpid(), 9)")
    flags = ("--max-steps", "20", "--checkpoint-every", "1", "--grad-accum", "1")
    job = train(folder, 2, *flags, "--restarts", "2", "--out", "run", code=crash)
    assert job.returncode == 0, job.stdout
    assert "starting again from " in job.stdout
    assert train(folder, 2, *flags, "--out", "whole").returncode == 0
    resumed, whole = summary(folder / "run"), summary(folder / "whole")
    assert resumed["weights_sha256"] == whole["weights_sha256"]


@pytest.mark.parametrize("servers", [1, 2])
@pytest.mark.one_mpi
def test_a_gradient_with_nan_names_rank_and_step_and_saves(folder: Path, servers: int) -> None:
    poison = at_gradient(5, servers + 1, "scale = float('nan')")
    job = train(folder, servers + 2, "--servers", str(servers), "--out", "run", code=poison)
    assert job.returncode == 7
    assert f"rank {servers + 1} sent a gradient with NaN or Inf at step 5" in job.stdout
    assert summary(folder / "run")["stopped_by"] == "non-finite gradient"
    assert np.isfinite(weights(folder / "run" / "checkpoints" / "step-000004-v000004")).all()


def test_a_full_disk_ends_the_job_and_leaves_earlier_checkpoints(folder: Path) -> None:
    full = (
        "import resource, sys\n"
        "from psdp.checkpoint import CheckpointStore\n"
        "from psdp.worker import main\n"
        "write = CheckpointStore.write_shard\n"
        "def write_shard(self, at, *args):\n"
        "    if at.step == 35:\n"
        "        resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, 50_000))\n"
        "    return write(self, at, *args)\n"
        "CheckpointStore.write_shard = write_shard\n"
        "sys.exit(main())\n"
    )
    job = train(
        folder, 3, "--max-steps", "40", "--checkpoint-every", "5", "--out", "run", code=full
    )
    assert job.returncode == 6
    assert re.search(r"could not write run/checkpoints/\.tmp-\w+-step-000035-v000035", job.stdout)
    kept = sorted(path.name for path in (folder / "run" / "checkpoints").glob("*step*"))
    # Steps run ahead of the disk, so which one was the last to be complete depends on its speed.
    assert max(kept) > "step-000000-v000000"
    assert not any("000035" in name for name in kept)
    assert np.isfinite(weights(folder / "run")).all()


@pytest.mark.parametrize(
    ("number", "status", "reason"),
    [
        (signal.SIGINT, 130, "signal"),
        (signal.SIGTERM, 143, "signal"),
        (signal.SIGUSR1, 75, "preempted"),
    ],
)
def test_a_signal_to_the_launcher_ends_the_job_saved_and_with_its_status(
    folder: Path, number: signal.Signals, status: int, reason: str
) -> None:
    command = [
        sys.executable, "-m", "psdp.launch", "-n", "3", "--corpus", "corpus.txt", *TINY,
        "--max-steps", "1000000", "--log-every", "1", "--out", "run",
    ]  # fmt: skip
    with (folder / "log").open("w") as log:
        job = subprocess.Popen(
            command, cwd=folder, stdout=log, stderr=log, start_new_session=True,
            env=ENVIRONMENT,
        )  # fmt: skip
    try:
        deadline = time.monotonic() + 30
        while time.monotonic() < deadline and not (
            (folder / "run" / "metrics.jsonl").exists() and metrics(folder / "run", "train")
        ):
            time.sleep(0.1)
        job.send_signal(number)
        assert job.wait(timeout=20) == status
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(job.pid, signal.SIGKILL)
    result = summary(folder / "run")
    assert result["stopped_by"] == reason
    assert result["tokens"] > 0
    assert weights(folder / "run").size
    assert json.loads((folder / "run" / "config.json").read_text())["settings"]["mode"] == "sync"
