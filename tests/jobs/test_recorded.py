"""Recording and replaying real jobs."""

from __future__ import annotations

from pathlib import Path

import pytest
from tiny import summary, train, write_corpus

from psdp.audit.__main__ import main

pytestmark = [pytest.mark.mpi, pytest.mark.one_mpi, pytest.mark.timeout(120)]

MODES = {
    "async": ("--mode", "async"),
    "ssp": ("--mode", "ssp", "--staleness", "2"),
    "auto": ("--mode", "auto", "--local-steps", "2"),
    "local": ("--mode", "local", "--merge", "async", "--local-steps", "4"),
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_corpus(tmp_path / "corpus.txt")
    return tmp_path


@pytest.mark.parametrize("mode", MODES)
def test_a_replay_on_other_timing_and_transport_ends_with_the_same_weights(
    folder: Path, mode: str
) -> None:
    job = train(
        folder, 4, *MODES[mode], "--record", "--straggler", "2:3", "--eval-every", "5",
        "--out", "run",
    )  # fmt: skip
    assert job.returncode == 0, job.stdout
    assert main([str(folder / "run")]) == 0, "the audit contradicts it"
    other = ("--straggler", "3:4", "--transport", "messages")
    job = train(folder, 4, "--replay", "run", *other, "--out", "again")
    assert job.returncode == 0, job.stdout
    result, recorded = summary(folder / "again"), summary(folder / "run")
    for name in ("weights_sha256", "version_lag", "val_loss", "modes"):
        assert result[name] == recorded[name]


def test_what_cannot_be_replayed_is_refused_at_once(folder: Path) -> None:
    assert train(folder, 2, "--mode", "async", "--record", "--out", "run").returncode == 0
    other = train(folder, 3, "--replay", "run", "--out", "other", timeout_s=30)
    assert other.returncode == 8
    assert "that run had 1 ranks that worked, this job has 2; start 2 ranks" in other.stdout
    rate = train(folder, 2, "--replay", "run", "--seed", "5", "--out", "other", timeout_s=30)
    assert rate.returncode == 8
    assert "--seed 5 differs from 1337 of the run in run" in rate.stdout
    nowhere = train(folder, 2, "--replay", "nowhere", "--out", "other", timeout_s=30)
    assert nowhere.returncode == 8
    assert "name the folder of a run that was made with --record" in nowhere.stdout
    assert train(folder, 2, "--mode", "async", "--out", "plain").returncode == 0
    unrecorded = train(folder, 2, "--replay", "plain", "--out", "other", timeout_s=30)
    assert unrecorded.returncode == 8
    assert "--replay takes the folder of a run that was made with --record" in unrecorded.stdout
