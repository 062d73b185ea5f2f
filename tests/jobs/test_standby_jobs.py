"""Real jobs that go on without servers that die, rank 0 among them (Open MPI's ULFM)."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import numpy as np
import pytest
from mpi import run_job
from tiny import TINY, metrics, summary, weights, write_corpus

from psdp.launch.mpirun import find_launcher, has_ulfm, version_of

VERSION = version_of(find_launcher(Path(sys.prefix), os.environ.get("PATH", os.defpath)))

pytestmark = [pytest.mark.mpi, pytest.mark.timeout(90)]
survives = pytest.mark.skipif(not has_ulfm(VERSION), reason="this MPI ends with its first rank")

SETTINGS = (*TINY, "--corpus", "corpus.txt", "--virtual-workers", "2", "--dropout", "0.1")
DIES = """
import os, sys
from psdp.servers.serving import Serving
from psdp.worker import main
turn, turns, dying = Serving.turn, 0, {DYING}
def turning(self, *arguments):
    global turns
    turns += 1
    if turns == dying.get(self.endpoint.rank):
        os.kill(os.getpid(), 9)
    return turn(self, *arguments)
Serving.turn = turning
sys.exit(main())
"""


@survives
@pytest.mark.parametrize(
    ("servers", "dying"), [(1, {0: 60}), (2, {0: 60, 1: 90})], ids=["one server", "two servers"]
)
def test_who_stands_by_goes_on_with_the_same_bits(
    tmp_path: Path, servers: int, dying: dict[int, int]
) -> None:
    write_corpus(tmp_path / "corpus.txt")
    flags = (*SETTINGS, "--servers", str(servers), "--eval-every", "5")
    plain = run_job(servers + 2, "psdp.worker", *flags, "--out", "plain", cwd=tmp_path)
    assert plain.returncode == 0, plain.stdout
    code = DIES.replace("{DYING}", repr(dying))
    ended = run_job(*(2 * servers + 2, code, "--standby", *flags, "--out", "run"), cwd=tmp_path)
    assert ended.returncode == 0, ended.stdout
    run, undisturbed = tmp_path / "run", tmp_path / "plain"
    taken = [(record["from"], record["to"]) for record in metrics(run, "takeover")]
    assert taken == [(rank, servers + 2 + rank) for rank in dying]
    assert summary(run)["takeovers"] == len(dying)
    assert summary(run)["weights_sha256"] == summary(undisturbed)["weights_sha256"]
    np.testing.assert_array_equal(weights(run), weights(undisturbed))
    for kind, said in (("train", "loss"), ("eval", "val_loss")):
        told = [[record[said] for record in metrics(each, kind)] for each in (run, undisturbed)]
        assert told[0] == told[1]


def test_it_is_refused_where_a_death_ends_the_job(tmp_path: Path) -> None:
    write_corpus(tmp_path / "corpus.txt")
    ended = run_job(4, "psdp.worker", "--with-ft", "none", "--standby", *SETTINGS, cwd=tmp_path)
    assert ended.returncode == 2, ended.stdout
    assert "--standby: this job ends with the first rank that dies" in ended.stdout
