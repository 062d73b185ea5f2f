"""Whether MPI takes GPU memory: a trial in another process, however it ends."""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path

import pytest

from psdp.errors import ConfigError

try:
    from psdp.startup import probe
except ConfigError as missing:
    pytest.skip(str(missing), allow_module_level=True)

pytestmark = [pytest.mark.mpi, pytest.mark.one_mpi, pytest.mark.timeout(60)]

OPENERS = """
import os, signal, sys, time
sys.path.append({tests!r})
from pathlib import Path
from emulated.device import EmulatedDevice

class Other(EmulatedDevice):
    def download(self, device, out):
        super().download(device, out)
        out[-1] ^= 1

def works(local_rank):
    assert local_rank == 3
    assert "OMPI_COMM_WORLD_RANK" not in os.environ
    return EmulatedDevice(Path("."), apart=True)

def spoils(local_rank):
    return Other(Path("."), apart=True)

def ends(local_rank):
    os.kill(os.getpid(), signal.SIGSEGV)

def killed(local_rank):
    os.kill(os.getpid(), signal.SIGKILL)

def hangs(local_rank):
    Path({pid!r}).write_text(str(os.getpid()))
    time.sleep(60)

def fails(local_rank):
    raise RuntimeError("no GPU is to be had")
"""


@pytest.fixture
def pid_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Let trials find openers of GPUs; return where the process of one that hangs is noted."""
    tests, pid = str(Path(__file__).parents[1]), tmp_path / "pid"
    (tmp_path / "openers.py").write_text(OPENERS.format(tests=tests, pid=str(pid)))
    root = str(Path(__file__).parents[2])
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path), root]))
    monkeypatch.setenv("OMPI_COMM_WORLD_RANK", "1")  # as a rank of a job has it
    return pid


@pytest.mark.parametrize(
    ("opener", "why_not"),
    [
        ("works", None),
        ("spoils", r"by MPI failed in a trial \(other bytes came than were sent\)"),
        ("ends", "MPI is not CUDA-aware: sending from GPU memory ended a trial by SIGSEGV"),
        ("killed", "^sending from GPU memory ended a trial by SIGKILL"),
        ("fails", r"failed in a trial \(RuntimeError: no GPU is to be had\)"),
    ],
)
def test_a_trial_says_whether_messages_can_go_from_gpu_to_gpu(
    pid_file: Path, monkeypatch: pytest.MonkeyPatch, opener: str, why_not: str | None
) -> None:
    monkeypatch.setattr(probe, "OPENER", f"openers:{opener}")
    said = probe.why_not_aware(local_rank=3)
    assert said is None if why_not is None else re.search(why_not, said or "")


def test_a_trial_that_hangs_is_ended(pid_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probe, "OPENER", "openers:hangs")
    assert probe.why_not_aware(0, timeout_s=3) == "MPI did not send from GPU memory within 3 s"
    if pid_file.exists():  # it had come that far
        assert not Path(f"/proc/{pid_file.read_text()}").exists()


def test_a_trial_that_cannot_begin_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", "/no/such/python")
    said = "whether MPI takes GPU memory could not be tried (No such file or directory)"
    assert probe.why_not_aware(0) == said


def test_a_trial_is_no_rank_of_the_job_but_sends_as_a_person_told_it_to() -> None:
    environment = {
        "OMPI_COMM_WORLD_RANK": "2", "PMIX_RANK": "2", "PMI_RANK": "2", "PRTE_LAUNCHED": "1",
        "MPI_LOCALRANKID": "0", "HYDRA_PROXY_ID": "0", "OMPI_MCA_num_procs": "3",
        "OMPI_MCA_pml": "ucx", "OMPI_MCA_opal_cuda_support": "0", "MPIR_CVAR_ENABLE_GPU": "0",
        "UCX_TLS": "cuda", "PATH": "/bin", "CUDA_VISIBLE_DEVICES": "1",
    }  # fmt: skip
    kept = probe.alone(environment)
    choices = ["OMPI_MCA_pml", "OMPI_MCA_opal_cuda_support", "MPIR_CVAR_ENABLE_GPU", "UCX_TLS"]
    assert list(kept) == [*choices, "PATH", "CUDA_VISIBLE_DEVICES"]
