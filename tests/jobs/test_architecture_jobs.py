"""Real jobs with an architecture of one's own: its file, and its row of the table."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
from tiny import metrics, summary, train, weights, write_corpus

from psdp.errors import CheckpointError

pytestmark = [pytest.mark.mpi, pytest.mark.one_mpi]

WORKER = f"""
import sys
sys.path.append({str(Path(__file__).parents[1])!r})
from bag_row import add_row
add_row()
from psdp.worker import main
sys.exit(main())
"""
BAG = ("--architecture", "bag-of-words", "--n-embd", "10", "--weight-decay", "0")


@pytest.mark.parametrize("mode", [("--mode", "sync"), ("--mode", "ssp", "--servers", "2")], ids=str)
def test_another_architecture_trains_through_the_servers(
    tmp_path: Path, mode: tuple[str, ...]
) -> None:
    write_corpus(tmp_path / "corpus.txt")
    flags = (*BAG, *mode, "--max-steps", "60", "--lr", "0.05", "--bag-decay", "0.5")
    job = train(tmp_path, 4, *flags, "--profile", "--out", "run", code=WORKER)
    assert job.returncode == 0, job.stdout
    assert weights(tmp_path / "run").size == 2 * 256 * 10
    first, *_, last = metrics(tmp_path / "run", "train")
    assert first["loss"] == pytest.approx(math.log(256), abs=0.05)
    assert last["loss"] < first["loss"] - 1
    told = summary(tmp_path / "run")
    assert told["val_loss"] < first["loss"] - 1
    assert told["val_units"] == 4 * 12 * 16
    settings = json.loads((tmp_path / "run" / "config.json").read_text())["settings"]
    assert (settings["architecture"], settings["bag_decay"]) == ("bag-of-words", 0.5)


def test_it_resumes_and_another_one_does_not(tmp_path: Path) -> None:
    write_corpus(tmp_path / "corpus.txt")
    whole = train(tmp_path, 2, *BAG, "--checkpoint-every", "10", "--out", "run", code=WORKER)
    assert whole.returncode == 0, whole.stdout
    at = ("--resume", "run/checkpoints/step-000010-v000010")
    again = train(tmp_path, 2, *BAG, *at, "--out", "again", code=WORKER)
    assert again.returncode == 0, again.stdout
    assert np.array_equal(weights(tmp_path / "again"), weights(tmp_path / "run"))
    changed = (*BAG, *at, "--architecture", "decoder", "--out", "other")
    other = train(tmp_path, 2, *changed, code=WORKER)
    assert other.returncode == CheckpointError.exit_code
    assert "--architecture decoder differs from bag-of-words of the run" in other.stdout


def test_its_settings_are_its_own(tmp_path: Path) -> None:
    write_corpus(tmp_path / "corpus.txt")
    refused = train(tmp_path, 2, "--bag-decay", "0.5", "--out", "run", code=WORKER)
    assert refused.returncode == 2
    assert (
        "--bag-decay 0.5 has a meaning with --architecture bag-of-words only, got --architecture "
        "decoder; drop one of the two"
    ) in refused.stdout
    beyond = train(tmp_path, 2, *BAG, "--bag-decay", "1.5", "--out", "run", code=WORKER)
    assert "--bag-decay must be below 1, got 1.5" in beyond.stdout
    assert not (tmp_path / "run").exists()
