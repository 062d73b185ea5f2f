"""Real jobs that go on without servers that die, rank 0 among them (Open MPI's ULFM)."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import numpy as np
import pytest
from mpi import run_job
from tiny import KILLED, RAISES, TINY, failing, metrics, summary, weights, write_corpus

from psdp.audit.auditing import Audit
from psdp.audit.findings import UNTOLD, Verdict
from psdp.launch.mpirun import find_launcher, has_ulfm, version_of

VERSION = version_of(find_launcher(Path(sys.prefix), os.environ.get("PATH", os.defpath)))

pytestmark = [pytest.mark.mpi, pytest.mark.timeout(90)]
survives = pytest.mark.skipif(not has_ulfm(VERSION), reason="this MPI ends with its first rank")

SETTINGS = (*TINY, "--corpus", "corpus.txt", "--virtual-workers", "2", "--dropout", "0.1")


@survives
@pytest.mark.parametrize(
    ("servers", "dying", "how"),
    [(1, {0: 60}, RAISES), (2, {0: 60, 1: 90}, KILLED)],
    ids=["one server", "two servers"],
)
def test_who_stands_by_goes_on_with_the_same_bits(
    tmp_path: Path, servers: int, dying: dict[int, int], how: str
) -> None:
    write_corpus(tmp_path / "corpus.txt")
    flags = (*SETTINGS, "--servers", str(servers), "--eval-every", "5")
    plain = run_job(servers + 2, "psdp.worker", *flags, "--out", "plain", cwd=tmp_path)
    assert plain.returncode == 0, plain.stdout
    code = failing(dying, how)
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


@survives
def test_a_record_goes_on_too_and_is_replayed_where_nobody_stands_by(tmp_path: Path) -> None:
    write_corpus(tmp_path / "corpus.txt")
    code = failing({0: 60})
    flags = (*SETTINGS, "--mode", "async", "--eval-every", "5", "--record", "--out", "run")
    ended = run_job(4, code, "--standby", *flags, cwd=tmp_path)
    assert ended.returncode == 0, ended.stdout
    run = tmp_path / "run"
    assert summary(run)["takeovers"] == 1
    others = [each for each in Audit(run).check().all if each.verdict is not Verdict.PROVED]
    assert [each for each in others if each.why != UNTOLD] == []
    again = run_job(3, "psdp.worker", "--replay", "run", "--out", "again", cwd=tmp_path)
    assert again.returncode == 0, again.stdout
    np.testing.assert_array_equal(weights(tmp_path / "again"), weights(run))


LEADERS_DIE = """
import os, sys, time
from pathlib import Path
from psdp.nn.models.decoder import DecoderModel
from psdp.servers.serving import Serving
from psdp.worker import main
add_gradient, turn, count = DecoderModel.add_gradient, Serving.turn, 0
def waiting(self, *arguments):
    global count
    count += 1
    while count > 5 and '"join"' not in Path("run/metrics.jsonl").read_text():
        time.sleep(0.01)
    return add_gradient(self, *arguments)
def turning(self, *arguments):
    global count
    count += 1
    rank, ends = self.endpoint.rank, self.job.term.joined and self.progress.version > 10
    if count == 60 and rank == 0 or ends and rank == 4:
        os.kill(os.getpid(), 9)
    return turn(self, *arguments)
DecoderModel.add_gradient, Serving.turn = waiting, turning
sys.exit(main())
"""


@survives
def test_a_spare_stands_by_for_who_took_over_and_takes_over_from_it(tmp_path: Path) -> None:
    write_corpus(tmp_path / "corpus.txt")
    plain = run_job(3, "psdp.worker", *SETTINGS, "--out", "plain", cwd=tmp_path)
    assert plain.returncode == 0, plain.stdout
    flags = ("--standby", "--spares", "1", *SETTINGS, "--out", "run")
    ended = run_job(5, LEADERS_DIE, *flags, cwd=tmp_path)
    assert ended.returncode == 0, ended.stdout
    run, undisturbed = tmp_path / "run", tmp_path / "plain"
    assert "rank 3 stands by for rank 4 from now on" in ended.stdout
    taken = [(record["from"], record["to"]) for record in metrics(run, "takeover")]
    assert taken == [(0, 4), (4, 3)]
    assert summary(run)["joins"] == 1
    assert summary(run)["weights_sha256"] == summary(undisturbed)["weights_sha256"]


def test_it_is_refused_where_a_death_ends_the_job(tmp_path: Path) -> None:
    write_corpus(tmp_path / "corpus.txt")
    ended = run_job(4, "psdp.worker", "--with-ft", "none", "--standby", *SETTINGS, cwd=tmp_path)
    assert ended.returncode == 2, ended.stdout
    assert "--standby: this job ends with the first rank that dies" in ended.stdout
