"""Shared memory in real jobs: the same weights as with messages, and nothing left behind."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from mpi import ROOT
from session import end_session
from tiny import RANK, TINY, metrics, summary, train, write_corpus

pytestmark = [pytest.mark.mpi, pytest.mark.timeout(90)]

WITHOUT = """
import os, sys
from psdp.worker import main
def refuse(*_args):
    raise OSError(28, os.strerror(28))
if CONDITION:
    os.FUNCTION = refuse
sys.exit(main())
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_corpus(tmp_path / "corpus.txt")
    return tmp_path


@pytest.mark.parametrize("servers", [1, 2])
def test_shared_memory_and_messages_give_the_same_weights(folder: Path, servers: int) -> None:
    flags = ("--servers", str(servers), "--eval-every", "5", "--dropout", "0.1")
    for kind in ("shared", "messages"):
        job = train(folder, servers + 2, *flags, "--transport", kind, "--out", kind)
        assert job.returncode == 0, job.stdout
    shared, messages = summary(folder / "shared"), summary(folder / "messages")
    assert shared["weights_sha256"] == messages["weights_sha256"]
    assert shared["val_loss"] == messages["val_loss"]
    assert (shared["transport"], messages["transport"]) == ("shared", "messages")
    for result in (shared, messages):
        ranks = {str(rank) for rank in range(servers, servers + 2)}
        for name in ("compute_s", "push_s", "wait_s", "pull_s"):
            assert result[name].keys() == ranks
            assert all(seconds >= 0 for seconds in result[name].values())
        assert result["server_cpu_s"].keys() == {str(rank) for rank in range(servers)}
        assert all(seconds > 0 for seconds in result["server_cpu_s"].values())


def test_ranks_of_one_host_share_by_default_and_the_run_says_so(folder: Path) -> None:
    job = train(folder, 3, "--mode", "async", "--out", "run")
    assert "vectors in shared memory" in job.stdout.splitlines()[1]
    config = json.loads((folder / "run" / "config.json").read_text())
    assert (config["transport"], config["settings"]["transport"]) == ("shared", "auto")


@pytest.mark.one_mpi
def test_a_run_goes_on_with_another_transport(folder: Path) -> None:
    flags = ("--checkpoint-every", "10", "--keep-checkpoints", "0")
    assert train(folder, 3, *flags, "--out", "whole").returncode == 0
    rest = train(
        folder, 3, "--resume", "whole/checkpoints/step-000010-v000010", "--transport", "messages",
        "--out", "rest",
    )  # fmt: skip
    assert rest.returncode == 0, rest.stdout
    results = [summary(folder / run) for run in ("whole", "rest")]
    assert results[0]["weights_sha256"] == results[1]["weights_sha256"]
    assert [result["transport"] for result in results] == ["shared", "messages"]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The hash of the weights of a run whose ranks share memory."""
    folder = tmp_path_factory.mktemp("whole")
    write_corpus(folder / "corpus.txt")
    assert train(folder, 3, "--out", "run").returncode == 0
    return str(summary(folder / "run")["weights_sha256"])


def without(condition: str, function: str) -> str:
    """Return the code of psdp.worker in which a call of the system fails on some ranks."""
    return WITHOUT.replace("CONDITION", condition).replace("FUNCTION", function)


@pytest.mark.parametrize(
    ("condition", "function", "transport"),
    [
        (f"{RANK} == 0", "posix_fallocate", "messages"),
        (f"{RANK} == 1", "posix_fallocate", "mixed"),
        (f"{RANK} == 2", "memfd_create", "mixed"),
        (f"{RANK} == 1", "readlink", "mixed"),
    ],
)
@pytest.mark.one_mpi
def test_who_cannot_share_exchanges_messages_and_says_so(
    folder: Path, whole: str, condition: str, function: str, transport: str
) -> None:
    job = train(folder, 3, "--out", "run", code=without(condition, function))
    assert job.returncode == 0, job.stdout
    assert "No space left on device" in job.stdout
    assert summary(folder / "run")["transport"] == transport
    assert summary(folder / "run")["weights_sha256"] == whole


@pytest.mark.parametrize("rank", [0, 2])
@pytest.mark.one_mpi
def test_who_cannot_share_and_insists_is_refused(folder: Path, rank: int) -> None:
    code = without(f"{RANK} == {rank}", "memfd_create")
    insisting = train(folder, 3, "--transport", "shared", "--out", "run", code=code)
    assert insisting.returncode == 2
    assert "psdp: --transport shared: server 0 and worker " in insisting.stdout
    assert not (folder / "run").exists()


def leftovers() -> set[str]:
    """Return what of shared memory has a name, apart from the MPI library's own."""
    return {path.name for path in Path("/dev/shm").iterdir() if "psdp" in path.name}


def test_nothing_is_left_in_dev_shm_by_a_job_that_ends_or_fails(folder: Path) -> None:
    before = leftovers()
    assert train(folder, 3, "--out", "run").returncode == 0
    crash = (
        "import os, sys\nfrom psdp.workers.replica import Replica\nfrom psdp.worker import main\n"
        "def fail(self):\n    raise ValueError('no such luck')\n"
        f"if {RANK} == 2:\n    Replica.fetch = fail\n"
        "sys.exit(main())\n"
    )
    job = train(folder, 3, "--out", "crash", code=crash)
    assert "no such luck" in job.stdout
    assert leftovers() == before


def test_nothing_is_left_in_dev_shm_when_every_rank_is_killed_at_once(folder: Path) -> None:
    before = leftovers()
    command = [
        sys.executable, "-m", "psdp.launch", "-n", "3", "--corpus", "corpus.txt", *TINY,
        "--max-steps", "1000000", "--log-every", "1", "--out", "run", "--transport", "shared",
    ]  # fmt: skip
    with (folder / "log").open("w") as log:
        job = subprocess.Popen(
            command, cwd=folder, stdout=log, stderr=log, start_new_session=True,
            env=os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        )  # fmt: skip
    try:
        deadline = time.monotonic() + 30
        while time.monotonic() < deadline and not (
            (folder / "run" / "metrics.jsonl").exists() and metrics(folder / "run", "train")
        ):
            time.sleep(0.1)
    finally:
        end_session(job, signal.SIGKILL)
    assert metrics(folder / "run", "train")
    assert leftovers() == before
