"""Jobs on several hosts of which one is lost (Open MPI's ULFM, and the relay of psdp.launch)."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from mpi import ROOT, run_job
from namespaces import Hosts, why_not
from session import end_session
from tiny import TINY, metrics, summary, write_corpus

from psdp.launch.mpirun import find_launcher, has_ulfm, version_of

VERSION = version_of(find_launcher(Path(sys.prefix), os.environ.get("PATH", os.defpath)))
WHY_NOT = why_not()

pytestmark = [
    pytest.mark.mpi,
    pytest.mark.timeout(120),
    pytest.mark.skipif(not has_ulfm(VERSION), reason="this MPI ends with its first rank"),
    pytest.mark.skipif(WHY_NOT is not None, reason=f"no network namespaces: {WHY_NOT}"),
]
long = pytest.mark.skipif("PSDP_LONG" not in os.environ, reason="PSDP_LONG is not set")

LEASE = ("--lease-s", "4")
SETTINGS = (*TINY, "--max-steps", "300", "--log-every", "1", "--corpus", "corpus.txt")


def kill(hosts: Hosts, host: int) -> None:
    hosts.kill(host)


def cut_off_and_kill(hosts: Hosts, host: int) -> None:
    """Let a host be gone without a word to others, as when its power is."""
    hosts.cut_off(host)
    hosts.kill(host)


def run(
    folder: Path, slots: list[int], lose: Callable[[Hosts], None], *flags: str
) -> tuple[int, str]:
    """Run a job with so many ranks on each host, mpirun on the first; lose what is to be lost when
    training has begun. Return its exit status and what it said."""
    write_corpus(folder / "corpus.txt")
    with Hosts(len(slots)) as hosts, (folder / "log").open("w+b") as log:
        lines = (f"{hosts.address(n)} slots={some}\n" for n, some in enumerate(slots) if some)
        (folder / "hosts").write_text("".join(lines))
        launch = [sys.executable, "-m", "psdp.launch", "-n", str(sum(slots))]
        launch += ["--hostfile", "hosts", *LEASE, *SETTINGS, "--out", "run", *flags]
        own = {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
        job = subprocess.Popen(
            hosts.on(0, launch),
            cwd=folder,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
            env=os.environ | own | {"OMPI_MCA_plm_ssh_agent": str(hosts.agent)},
        )
        try:
            while job.poll() is None and not has_trained(folder / "run"):
                time.sleep(0.05)
            lose(hosts)
            status = job.wait(60)
            deadline_s = time.monotonic() + 10
            while any(map(hosts.processes, range(hosts.count))) and time.monotonic() < deadline_s:
                time.sleep(0.05)
            left = [hosts.processes(host) for host in range(hosts.count)]
        finally:
            end_session(job)
        log.seek(0)
        said = log.read().decode()
        assert left == [[]] * hosts.count, said
        return status, said


def has_trained(run: Path) -> bool:
    return (run / "metrics.jsonl").exists() and len(metrics(run, "train")) > 10


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The hash of the weights of a run of four workers that nothing happens to."""
    folder = tmp_path_factory.mktemp("undisturbed")
    write_corpus(folder / "corpus.txt")
    ended = run_job(
        2, "psdp.worker", *SETTINGS, "--virtual-workers", "4", "--out", "run", cwd=folder
    )
    assert ended.returncode == 0, ended.stdout
    return str(summary(folder / "run")["weights_sha256"])


@pytest.mark.parametrize(
    ("slots", "lost", "lose"),
    [
        ([2, 1, 2], 2, kill),
        pytest.param([2, 1, 2], 2, cut_off_and_kill, marks=long),
        pytest.param([2, 2, 2], 1, kill, marks=long),
        pytest.param([0, 3, 1, 1], 3, kill, marks=long),
    ],
)
def test_a_job_goes_on_without_a_host_to_the_same_weights(
    tmp_path: Path,
    undisturbed: str,
    slots: list[int],
    lost: int,
    lose: Callable[[Hosts, int], None],
) -> None:
    flags = ("--virtual-workers", "4")
    status, said = run(tmp_path, slots, lambda hosts: lose(hosts, lost), *flags)
    assert status == 0, said
    first = sum(slots[:lost])
    moves = metrics(tmp_path / "run", "move")
    assert {move["from"] for move in moves} == {*range(first, first + slots[lost])}
    assert summary(tmp_path / "run")["weights_sha256"] == undisturbed


@pytest.mark.parametrize("lose", [kill, pytest.param(cut_off_and_kill, marks=long)])
def test_the_loss_of_rank_0s_host_ends_the_job_which_names_its_last_checkpoint(
    tmp_path: Path, lose: Callable[[Hosts, int], None]
) -> None:
    flags = ("--checkpoint-every", "1", "--max-steps", "100000")
    status, said = run(tmp_path, [0, 1, 2], lambda hosts: lose(hosts, 1), *flags)
    assert status == 5, said
    assert "psdp.launch: the job has failed: rank 0 on host11 " in said
    assert "; the newest checkpoint is run/checkpoints/step-" in said.replace(f"{tmp_path}/", "")


@long
@pytest.mark.parametrize("lose", [kill, cut_off_and_kill])
def test_rank_0s_host_may_be_lost_where_another_one_has_who_stands_by(
    tmp_path: Path, undisturbed: str, lose: Callable[[Hosts, int], None]
) -> None:
    flags = ("--virtual-workers", "4", "--standby")
    status, said = run(tmp_path, [0, 2, 2, 2], lambda hosts: lose(hosts, 1), *flags)
    assert status == 0, said
    assert [each["to"] for each in metrics(tmp_path / "run", "takeover")] == [5]
    assert {move["from"] for move in metrics(tmp_path / "run", "move")} == {1}
    assert summary(tmp_path / "run")["weights_sha256"] == undisturbed


@long
def test_a_job_that_loses_no_host_leaves_nothing_on_any(tmp_path: Path, undisturbed: str) -> None:
    status, said = run(tmp_path, [2, 1, 2], lambda hosts: None)
    assert status == 0, said
    assert summary(tmp_path / "run")["weights_sha256"] == undisturbed
