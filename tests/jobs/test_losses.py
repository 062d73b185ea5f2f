"""Real jobs that go on without ranks that die, whatever they die of (Open MPI's ULFM)."""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path

import pytest
from mpi import run_job
from tiny import RANK, TINY, at_gradient, metrics, summary, write_corpus

from psdp.launch.mpirun import find_launcher, has_ulfm, version_of

VERSION = version_of(find_launcher(Path(sys.prefix), os.environ.get("PATH", os.defpath)))

pytestmark = [
    pytest.mark.mpi,
    pytest.mark.timeout(90),
    pytest.mark.skipif(not has_ulfm(VERSION), reason="this MPI ends with its first rank"),
]

SETTINGS = (*TINY, "--corpus", "corpus.txt", "--virtual-workers", "3", "--dropout", "0.1")
LEASE = ("--lease-s", "3")
DEATHS = {
    "killed": "os.kill(os.getpid(), 9)",
    "fails": "raise RuntimeError('out of order')",
    "crashes": "os.kill(os.getpid(), 11)",
    "exits": "os._exit(3)",
    "exits in C": "__import__('ctypes').CDLL(None).exit(3)",
    "stops": "os.kill(os.getpid(), 19)",
}


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The hash of the weights of a run in which nothing is lost."""
    folder = tmp_path_factory.mktemp("undisturbed")
    write_corpus(folder / "corpus.txt")
    ended = run_job(3, "psdp.worker", *SETTINGS, "--out", "run", cwd=folder)
    assert ended.returncode == 0, ended.stdout
    return str(summary(folder / "run")["weights_sha256"])


@pytest.mark.parametrize(
    ("death", "servers"),
    [
        ("killed", 2),
        ("fails", 1),
        ("crashes", 2),
        ("exits", 1),
        ("exits in C", 1),
        ("stops", 2),
    ],
)
def test_another_rank_does_what_a_lost_one_would_have_done(
    tmp_path: Path, undisturbed: str, death: str, servers: int
) -> None:
    write_corpus(tmp_path / "corpus.txt")
    code = at_gradient(5, servers + 1, DEATHS[death])
    ended = run_job(
        *(servers + 3, code, *LEASE, *SETTINGS, "--servers", str(servers), "--out", "run"),
        cwd=tmp_path,
    )
    assert ended.returncode == 0, ended.stdout
    run = tmp_path / "run"
    moved = [(move["worker"], move["from"]) for move in metrics(run, "move")]
    assert moved == [(2, servers + 1)]
    (failure,) = metrics(run, "failure")
    assert failure["rank"] == servers + 1
    if death == "fails":
        assert failure["why"] == "it failed: RuntimeError: out of order"
    assert summary(run)["failures"] == 1
    assert metrics(run, "move")[0]["to"] == servers
    assert summary(run)["weights_sha256"] == undisturbed


WAITS = f"""
import os, sys, time
from pathlib import Path
from psdp.worker import main
from psdp.workers.spare import Spare
if {RANK} in (1, 2):
    from psdp.nn.models.decoder import DecoderModel
    compute = DecoderModel.add_gradient
    def add_gradient(self, *arguments):
        if {RANK} == 2:
            os.kill(os.getpid(), 9)
        time.sleep(0.2)
        compute(self, *arguments)
    DecoderModel.add_gradient = add_gradient
prepare = Spare._prepare
def called(self):
    if {RANK} == 4:
        raise RuntimeError("no room here")
    if not Path("memory").exists():
        Path("memory").write_text(Path("/proc/self/smaps_rollup").read_text())
    return prepare(self)
Spare._prepare = called
sys.exit(main())
"""


def test_a_spare_is_small_until_it_is_called_and_the_next_one_follows_if_it_fails(
    tmp_path: Path, undisturbed: str
) -> None:
    write_corpus(tmp_path / "corpus.txt")
    ended = run_job(
        *(6, WAITS, "--with-ft", "ulfm", *SETTINGS, "--spares", "2", "--out", "run"), cwd=tmp_path
    )
    assert ended.returncode == 0, ended.stdout
    assert "RuntimeError: no room here" in ended.stdout
    run = tmp_path / "run"
    assert [move["to"] for move in metrics(run, "move")] == [1, 5]
    assert summary(run)["weights_sha256"] == undisturbed
    memory = re.search(r"^Rss: +(\d+) kB", (tmp_path / "memory").read_text(), re.MULTILINE)
    assert memory is not None
    assert int(memory[1]) < 60e3


def test_a_rank_that_stops_while_others_do_its_share_does_not_keep_the_job(tmp_path: Path) -> None:
    write_corpus(tmp_path / "corpus.txt")
    code = at_gradient(5, 2, DEATHS["stops"])
    flags = (*LEASE, *SETTINGS, "--mode", "async", "--out", "run")
    ended = run_job(4, code, *flags, cwd=tmp_path)
    assert ended.returncode == 0, ended.stdout
    assert "rank 2 is gone: nothing was heard of it for 3 s: it hangs or is stopped" in ended.stdout
    assert summary(tmp_path / "run")["stopped_by"] == "budget"


@pytest.mark.parametrize(("rank", "death"), [(0, "killed"), (1, "killed"), (0, "stops")])
def test_the_loss_of_a_server_ends_the_job(tmp_path: Path, rank: int, death: str) -> None:
    write_corpus(tmp_path / "corpus.txt")
    dies = f"""
import os, sys
from psdp.servers.serving import Serving
from psdp.worker import main
turn, turns = Serving.turn, 0
def turning(self, *arguments):
    global turns
    turns += 1
    if turns == 20 and self.endpoint.rank == {rank}:
        {DEATHS[death]}
    turn(self, *arguments)
Serving.turn = turning
sys.exit(main())
"""
    flags = (*LEASE, *SETTINGS, "--servers", "2", "--out", "run")
    ended = run_job(4, dies, *flags, cwd=tmp_path)
    assert ended.returncode == 5, ended.stdout
    assert f"server rank {rank} is gone" in ended.stdout
