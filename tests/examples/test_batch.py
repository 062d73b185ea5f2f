"""The scripts for batch systems, against stand-ins for these."""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from mpi import ROOT
from session import end_session

from psdp.cli import given_settings
from psdp.launch.options import parse

BATCH = ROOT / "examples" / "batch"
TINY = (
    "--n-layer 1 --n-head 1 --n-embd 16 --block-size 8 --batch-size 2 --threads 1 --eval-every 0 "
    "--log-every 100 --vocab-size 64 --corpus tokens.npy"
)


def slurm(folder: Path, *flags: str) -> subprocess.Popen[bytes]:
    """Start the Slurm script in a folder, as Slurm would."""
    programs = folder / "bin"
    programs.mkdir(exist_ok=True)
    (programs / "python").write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} "$@"\n')
    (programs / "scontrol").write_text(f'#!/bin/sh\necho "$@" >> {folder}/requeued\n')
    for program in programs.iterdir():
        program.chmod(0o755)
    environment = {
        "PATH": f"{programs}:{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT),
        "SLURM_NTASKS": "2",
        "SLURM_JOB_ID": "7",
    }
    script = ["bash", str(BATCH / "slurm.sh"), *TINY.split(), *flags]
    return subprocess.Popen(
        script, cwd=folder, env=os.environ | environment, start_new_session=True
    )


@pytest.mark.mpi
@pytest.mark.one_mpi
@pytest.mark.timeout(90)
def test_a_slurm_job_goes_back_into_the_queue_and_on_to_its_end(tmp_path: Path) -> None:
    np.save(tmp_path / "tokens.npy", np.arange(4000, dtype=np.uint8) % 60)
    run, requeued = tmp_path / "runs" / "7", tmp_path / "requeued"
    first = slurm(tmp_path, "--max-steps", "1000000")
    try:
        while not (run / "metrics.jsonl").exists() and first.poll() is None:
            time.sleep(0.1)
        first.send_signal(signal.SIGUSR1)
        assert first.wait(60) == 75
        assert requeued.read_text() == "requeue 7\n"
        trained = json.loads((run / "summary.json").read_text())
        assert trained["stopped_by"] == "preempted"
        second = slurm(tmp_path, "--max-steps", str(trained["steps"] + 5))
        try:
            assert second.wait(60) == 0
        finally:
            end_session(second)
    finally:
        end_session(first)
    assert requeued.read_text() == "requeue 7\n"
    assert json.loads((run / "summary.json").read_text())["stopped_by"] == "budget"


def test_kubernetes_starts_what_psdp_takes() -> None:
    text = (BATCH / "mpijob.yaml").read_text()
    assert "\t" not in text
    (command,) = re.findall(r"exec python -m psdp.launch (.*?) \"\$@\"", text, re.DOTALL)
    job = shlex.split(command.replace("/etc/mpi/hostfile", __file__))
    workers = int(text.split("replicas: ")[-1].split()[0])
    slots = int(text.split("slotsPerWorker: ")[1].split()[0])
    assert parse(job).ranks == workers * slots
    assert given_settings(parse(job).flags) == {"out": "runs/psdp"}
