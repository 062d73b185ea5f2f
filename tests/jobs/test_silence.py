"""Ranks that stop or hang for ever, where a job cannot go on without them: it ends saying so."""

from __future__ import annotations

from pathlib import Path

import pytest
from tiny import RANK, at_gradient, summary, train, write_corpus

from psdp.checkpoint import find_checkpoint

pytestmark = [pytest.mark.mpi, pytest.mark.timeout(90)]

PLAIN = ("--with-ft", "none", "--lease-s", "3")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_corpus(tmp_path / "corpus.txt")
    return tmp_path


def test_a_worker_that_hangs_ends_the_job_saved(folder: Path) -> None:
    code = at_gradient(5, 2, "import time; time.sleep(1000)")
    job = train(folder, 3, *PLAIN, "--out", "run", code=code)
    assert job.returncode == 5, job.stdout
    assert "psdp.launch: the job has failed: rank 2 on" in job.stdout
    assert "is taken for dead: nothing was heard of it for 3 s" in job.stdout
    kept = find_checkpoint(folder / "run")
    assert f"the newest checkpoint is {kept}" in job.stdout
    assert summary(folder / "run")["steps"] == 4


def test_a_rank_that_stops_before_the_run_has_begun_ends_that_start(folder: Path) -> None:
    stops = f"""
import os, sys
from psdp.startup.settings import AgreeOnSettings
from psdp.worker import main
act = AgreeOnSettings.act
def acting(self):
    if {RANK} == 1 and not os.path.exists("stopped"):
        open("stopped", "w").close()
        os.kill(os.getpid(), 19)
    return act(self)
AgreeOnSettings.act = acting
sys.exit(main())
"""
    job = train(folder, 3, "--lease-s", "3", "--out", "run", code=stops)
    assert job.returncode == 0, job.stdout
    assert "rank 1 on" in job.stdout
    assert "a rank was lost before the run had begun: starting once more" in job.stdout
