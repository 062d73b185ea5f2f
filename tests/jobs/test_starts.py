"""How real jobs start: on any terminal, from any folder; and what a start that fails leaves."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from mpi import ROOT
from tiny import RANK, summary, train, write_corpus

pytestmark = [pytest.mark.mpi, pytest.mark.timeout(60)]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_corpus(tmp_path / "corpus.txt")
    return tmp_path


def test_a_terminal_need_not_know_the_characters_of_a_path(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONIOENCODING", "ascii")
    job = train(folder, 2, "--max-steps", "2", "--out", "rün")
    assert job.returncode == 0, job.stdout
    assert "results in r\\xfcn" in job.stdout
    assert (folder / "rün" / "summary.json").exists()


@pytest.mark.one_mpi
def test_a_path_need_not_be_text(folder: Path) -> None:
    out = os.fsdecode(b"r\xfcn")
    job = train(folder, 2, "--max-steps", "2", "--out", out)
    assert job.returncode == 0, job.stdout
    assert (folder / out / "summary.json").exists()


@pytest.mark.one_mpi
def test_a_settings_file_of_another_system_may_name_home(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(folder))
    (folder / "run.toml").write_bytes(b'\xef\xbb\xbfcorpus = "~/corpus.txt"\r\nout = "~/x"\r\n')
    job = train(folder, 2, "--max-steps", "2", "--config=~/run.toml", "--corpus", "~/corpus.txt")
    assert job.returncode == 0, job.stdout
    assert (folder / "x" / "summary.json").exists()
    assert not (folder / "~").exists()


@pytest.mark.one_mpi
def test_a_record_that_cannot_be_replayed_leaves_no_folder(folder: Path) -> None:
    job = train(folder, 2, "--max-steps", "2", "--record", "--out", "recorded")
    assert job.returncode == 0, job.stdout
    (folder / "recorded" / "events-000000.jsonl").unlink()
    before = sorted(folder.rglob("*"))
    job = train(folder, 2, "--max-steps", "2", "--replay", "recorded", "--out", "a/b")
    assert job.returncode != 0
    assert "events-000000.jsonl" in job.stdout
    assert sorted(folder.rglob("*")) == before


BROKEN = """
import sys
from psdp.records.console import Console
from psdp.worker import main
def fail(*_, **__):
    raise RuntimeError("no console")
Console.{name} = fail
sys.exit(main())
"""


@pytest.mark.parametrize("name", ["__init__", "say"])
def test_a_start_that_fails_before_its_first_message_leaves_no_folder(
    folder: Path, name: str
) -> None:
    before = sorted(folder.rglob("*"))
    job = train(folder, 2, "--out", "a/b", code=BROKEN.format(name=name))
    assert job.returncode != 0
    assert "RuntimeError: no console" in job.stdout
    assert sorted(folder.rglob("*")) == before


def test_a_rank_that_ends_before_mpi_does_not_leave_the_others_waiting(folder: Path) -> None:
    early = (
        "import os, sys\nfrom psdp.line import open_line\nfrom psdp.worker import main\n"
        f"if {RANK} == 1:\n    line = open_line(os.environ)\n    sys.exit(3)\n"
        "sys.exit(main())\n"
    )
    job = train(folder, 3, "--out", "run", code=early)
    assert job.returncode in (3, 5), job.stdout
    assert "psdp.launch: the job has failed: rank 1 on" in job.stdout
    assert not (folder / "run").exists()


def test_a_rank_that_is_alone_against_its_launchers_word_names_the_cause(folder: Path) -> None:
    slurm = {"SLURM_JOB_ID": "7", "SLURM_PROCID": "0", "SLURM_NTASKS": "2"}
    alone = subprocess.run(
        [sys.executable, "-m", "psdp.worker", "--corpus", "corpus.txt"],
        env=os.environ | slurm | {"PYTHONPATH": str(ROOT)},
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=50,
    )
    assert alone.returncode == 2
    assert "this MPI sees one rank although Slurm was to start 2 (SLURM_NTASKS=2)" in alone.stdout
    assert "start with srun --mpi=pmix, " in alone.stdout
    assert [path.name for path in folder.iterdir()] == ["corpus.txt"]


@pytest.mark.one_mpi
def test_a_run_that_goes_on_for_longer_says_how_its_learning_rate_jumps(folder: Path) -> None:
    assert train(folder, 2, "--max-steps", "4", "--out", "x").returncode == 0
    job = train(folder, 2, "--max-steps", "8", "--resume", "x")
    assert job.returncode == 0, job.stdout
    # A cosine from 0.01 to 0.001 is over after 4 steps, and half way after 4 of 8.
    jumps = "the learning rate jumps from 1.00e-03 to 5.50e-03"
    assert f"changed: --max-steps 8 (was 4): {jumps}" in job.stdout


AT_ONCE, LATER = "die()", "time.sleep(1); die()"
IN_MPIS_START = "open_line(os.environ); die()"
WHILE_THE_LAUNCHER_IS_STOPPED = (
    """ChooseCheckpoint.act = lambda step: (stop(os.getsid(0)), die())"""
)


@pytest.mark.parametrize("ways", [(AT_ONCE, IN_MPIS_START), (LATER, WHILE_THE_LAUNCHER_IS_STOPPED)])
def test_a_start_that_loses_a_rank_is_made_once_more(folder: Path, ways: tuple[str, str]) -> None:
    """A rank dies in two starts: before any has called the launcher, before it has itself, where
    others wait for it in MPI's start, or where they see it before the launcher does."""
    dies = f"""
import os, signal, subprocess, sys, time
starts = sum(os.path.exists(name) for name in ("one", "two"))
def die():
    open(("one", "two")[starts], "w").close()
    os.kill(os.getpid(), signal.SIGKILL)
def stop(pid):
    subprocess.Popen(["sh", "-c", f"sleep 2; kill -CONT {{pid}}"], start_new_session=True)
    os.kill(pid, signal.SIGSTOP)
if {RANK} == 1 and starts == 0:
    {ways[0]}
from psdp.line import open_line
from psdp.startup.choosing import ChooseCheckpoint
from psdp.worker import main
if {RANK} == 1 and starts == 1:
    {ways[1]}
sys.exit(main())
"""
    job = train(folder, 3, "--out", "run", code=dies)
    assert job.returncode == 0, job.stdout
    assert job.stdout.count("a rank was lost before the run had begun: starting once more") == 2
    assert summary(folder / "run")["stopped_by"] == "budget"


@pytest.mark.one_mpi
def test_a_rank_that_dies_in_mpis_start_leaves_no_memory_that_has_a_name(folder: Path) -> None:
    dies = f"""
import os, sys, time
from pathlib import Path
from psdp.line import open_line
from psdp.processes import descendants
from psdp.worker import main
if {RANK} == 1 and not os.path.exists("shared"):
    open_line(os.environ)
    named = []
    while not named:
        time.sleep(0.01)
        maps = [Path(f"/proc/{{pid}}/maps").read_text() for pid in descendants(os.getppid())]
        lines = [line for text in maps for line in text.splitlines() if "/dev/shm/" in line]
        named = [line.split()[-1] for line in lines if not line.endswith(" (deleted)")]
    Path("shared").write_text("\\n".join(named))
    os.kill(os.getpid(), 9)
sys.exit(main())
"""
    job = train(folder, 3, "--out", "run", code=dies)
    assert job.returncode == 0, job.stdout
    assert "rank 1 on" in job.stdout
    named = (folder / "shared").read_text().splitlines()
    assert named
    assert not any(Path(name).exists() for name in named)
