"""Real jobs that push bfloat16: half the bytes on either transport, and said so."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from tiny import at_gradient, metrics, summary, train, weights, write_corpus

pytestmark = [pytest.mark.mpi, pytest.mark.one_mpi, pytest.mark.timeout(120)]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_corpus(tmp_path / "corpus.txt")
    return tmp_path


def test_three_workers_end_alike_on_both_transports_and_close_to_float32(folder: Path) -> None:
    flags = ("--servers", "2", "--max-steps", "60", "--eval-every", "20", "--overlap")
    for out, wire, transport in (
        ("shared", "bf16", "shared"),
        ("messages", "bf16", "messages"),
        ("float32", "float32", "auto"),
    ):
        job = train(
            folder, 5, *flags, "--wire-dtype", wire, "--transport", transport,
            "--out", out,
        )  # fmt: skip
        assert job.returncode == 0, job.stdout
        assert (", pushed in bfloat16, " in job.stdout) == (wire == "bf16")
        config = json.loads((folder / out / "config.json").read_text())
        assert config["settings"]["wire_dtype"] == wire
    shared, messages, plain = (summary(folder / out) for out in ("shared", "messages", "float32"))
    assert shared["weights_sha256"] == messages["weights_sha256"] != plain["weights_sha256"]
    assert (shared["transport"], messages["transport"]) == ("shared", "messages")
    assert shared["val_loss"] == pytest.approx(plain["val_loss"], abs=0.01)
    assert plain["val_loss"] < metrics(folder / "float32", "eval")[0]["val_loss"] - 1
    assert weights(folder / "shared").dtype == np.float32
    pushes, parameters = 60 * 3, config["parameters"]
    assert shared["bytes_pushed"] == messages["bytes_pushed"] == pushes * parameters * 2
    assert plain["bytes_pushed"] == pushes * parameters * 4
    assert shared["bytes_pulled"] == messages["bytes_pulled"] == plain["bytes_pulled"]


@pytest.mark.parametrize(
    "flags",
    [
        ("--mode", "async", "--lag-compensation", "dc-asgd", "--transport", "messages"),
        ("--mode", "easgd", "--transport", "shared"),
        ("--mode", "auto", "--transport", "shared"),
    ],
    ids=" ".join,
)
def test_other_modes_replay_bit_for_bit(folder: Path, flags: tuple[str, ...]) -> None:
    job = train(
        folder, 4, *flags, "--servers", "2", "--wire-dtype", "bf16", "--record", "--out", "run"
    )
    assert job.returncode == 0, job.stdout
    job = train(folder, 4, "--replay", "run", "--out", "again")
    assert job.returncode == 0, job.stdout
    run, again = summary(folder / "run"), summary(folder / "again")
    assert run["weights_sha256"] == again["weights_sha256"]
    assert run["bytes_pushed"] == again["bytes_pushed"]
    assert np.isfinite(weights(folder / "again")).all()


def test_a_run_goes_on_bit_for_bit_and_only_as_it_was(folder: Path) -> None:
    flags = ("--servers", "2", "--checkpoint-every", "10", "--keep-checkpoints", "0")
    whole = train(folder, 4, *flags, "--wire-dtype", "bf16", "--out", "whole")
    assert whole.returncode == 0, whole.stdout
    resume = ("--resume", "whole/checkpoints/step-000010-v000010")
    job = train(folder, 4, *resume, "--wire-dtype", "float32", "--out", "rest")
    assert job.returncode != 0
    assert "--wire-dtype float32 differs from bf16 of the run in whole" in job.stdout
    job = train(folder, 4, *resume, "--transport", "messages", "--out", "rest")
    assert job.returncode == 0, job.stdout
    digests = {summary(folder / run)["weights_sha256"] for run in ("whole", "rest")}
    assert len(digests) == 1


def test_a_gradient_with_nan_names_rank_and_step(folder: Path) -> None:
    poison = at_gradient(5, 3, "scale = float('nan')")
    flags = ("--servers", "2", "--wire-dtype", "bf16", "--transport", "messages")
    job = train(folder, 4, *flags, "--out", "run", code=poison)
    assert job.returncode != 0
    assert "rank 3 sent a gradient with NaN or Inf at step 5" in job.stdout
