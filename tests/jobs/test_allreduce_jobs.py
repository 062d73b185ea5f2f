"""Workers that reduce gradients among themselves through MPI: real jobs end to end."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from tiny import at_gradient, metrics, summary, train, weights, write_corpus

pytestmark = [pytest.mark.mpi, pytest.mark.timeout(90)]

REDUCE = ("--mode", "allreduce")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_corpus(tmp_path / "corpus.txt")
    return tmp_path


def test_three_workers_train_as_in_sync_and_a_resumed_run_ends_with_the_same_bits(
    folder: Path,
) -> None:
    flags = (
        *("--dtype", "float64", "--grad-clip", "0.05", "--grad-accum", "2", "--dropout", "0.1"),
        *("--log-every", "3", "--eval-every", "10", "--checkpoint-every", "5"),
        *("--keep-checkpoints", "0"),
    )
    for mode in ("sync", "allreduce"):
        job = train(folder, 4, "--mode", mode, *flags, "--out", mode)
        assert job.returncode == 0, job.stdout
    assert "gradients by MPI Allreduce" in job.stdout
    ours, theirs = summary(folder / "allreduce"), summary(folder / "sync")
    assert np.abs(weights(folder / "allreduce") - weights(folder / "sync")).max() < 1e-10
    assert ours["val_loss"] == pytest.approx(theirs["val_loss"], rel=1e-10)
    assert (ours["steps"], ours["version"], ours["tokens"]) == (20, 20, theirs["tokens"])
    for kind in ("train", "eval"):
        mine, other = (metrics(folder / run, kind) for run in ("allreduce", "sync"))
        assert [r["version"] for r in mine] == [r["version"] for r in other]
    checkpoint = "allreduce/checkpoints/step-000005-v000005"
    rest = train(folder, 4, *REDUCE, *flags, "--resume", checkpoint, "--out", "rest")
    assert rest.returncode == 0, rest.stdout
    assert summary(folder / "rest")["weights_sha256"] == ours["weights_sha256"]


@pytest.mark.one_mpi
def test_a_straggler_and_a_slow_link_delay_it(folder: Path) -> None:
    job = train(
        folder, 3, *REDUCE, "--link-mbps", "100", "--straggler", "2:3", "--transport", "messages",
        "--out", "run",
    )  # fmt: skip
    assert job.returncode == 0, job.stdout
    result = summary(folder / "run")
    # 20 times half of the vector, twice: what each of two workers sends in a ring.
    ring_bits = 20 * 8 * 4 * weights(folder / "run").size
    for rank in ("1", "2"):
        assert result["wait_s"][rank] >= ring_bits / 100e6


def test_a_gradient_with_nan_ends_all_with_one_message_and_its_step(folder: Path) -> None:
    poison = at_gradient(7, 2, "scale = float('nan')")
    job = train(folder, 3, *REDUCE, "--checkpoint-every", "4", "--out", "run", code=poison)
    assert job.returncode == 7
    assert job.stdout.count("psdp: rank") == 1
    assert "the sum of the workers' gradients holds NaN or Inf at step 7" in job.stdout
    assert summary(folder / "run")["stopped_by"] == "non-finite gradient"
    assert np.isfinite(weights(folder / "run" / "checkpoints" / "step-000004-v000004")).all()


@pytest.mark.parametrize("action", ["raise ValueError('no such luck')", "os.kill(os.getpid(), 9)"])
def test_a_worker_that_fails_or_dies_ends_those_that_wait_for_it(folder: Path, action: str) -> None:
    crash = at_gradient(5, 2, action)
    job = train(folder, 4, *REDUCE, "--out", "run", code=crash, timeout_s=30)
    assert job.returncode != 0
    if "ValueError" in action:
        assert "psdp: rank 2 failed:\nTraceback" in job.stdout
        assert summary(folder / "run")["stopped_by"] == "error"
