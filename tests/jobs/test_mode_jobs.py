"""All modes, one and two servers, two to five ranks: real jobs end to end."""

from __future__ import annotations

import hashlib
import json
import math
from pathlib import Path

import numpy as np
import pytest
from tiny import metrics, summary, train, weights, write_corpus

pytestmark = [pytest.mark.mpi, pytest.mark.timeout(90)]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_corpus(tmp_path / "corpus.txt")
    return tmp_path


@pytest.mark.parametrize(
    ("mode", "ranks", "servers"),
    [
        ("sync", 2, 1),
        ("sync", 5, 2),
        ("async", 3, 1),
        ("async", 4, 2),
        ("ssp", 3, 1),
        ("ssp", 4, 2),
    ],
)
def test_a_job_learns_and_records_what_it_did(
    folder: Path, mode: str, ranks: int, servers: int
) -> None:
    staleness = ["--staleness", "2"] if mode == "ssp" else []
    job = train(
        folder, ranks, "--mode", mode, "--servers", str(servers), *staleness,
        "--eval-every", "10", "--checkpoint-every", "10", "--out", "run",
    )  # fmt: skip
    assert job.returncode == 0, job.stdout
    run, workers = folder / "run", ranks - servers
    result = summary(run)
    updates = 20 if mode == "sync" else 20 * workers
    assert (result["mode"], result["workers"], result["servers"]) == (mode, workers, servers)
    assert (result["steps"], result["version"]) == (20, updates)
    assert result["tokens"] == 20 * workers * 2 * 16
    assert result["stopped_by"] == "budget"
    lags = result["version_lag"]["histogram"]
    assert sum(lags.values()) == 20 * workers, "every gradient is counted once"
    if mode == "sync":
        assert set(lags) == {"0"}
    if mode == "ssp":
        assert result["max_clock_gap"] <= 2
    assert set(result["wait_s"]) == {str(rank) for rank in range(servers, ranks)}
    parameters = json.loads((run / "config.json").read_text())["parameters"]
    assert result["bytes_pushed"] == 20 * workers * parameters * 4

    evaluations = metrics(run, "eval")
    # In async and ssp an evaluation may come in later than one that began after it.
    assert sorted(e["version"] for e in evaluations) == [0, updates // 2, updates]
    first = next(e for e in evaluations if e["version"] == 0)
    assert result["val_loss"] < first["val_loss"] - 1
    assert result["perplexity"] == pytest.approx(math.exp(result["val_loss"]))
    train_records = metrics(run, "train")
    assert train_records[-1]["tokens"] == result["tokens"]
    assert sum(train_records[-1]["clocks"].values()) == 20 * workers
    assert sorted(p.name for p in (run / "checkpoints").glob("step-*"))[-2:] == [
        f"step-000010-v{updates // 2:06d}",
        f"step-000020-v{updates:06d}",
    ]
    digest = hashlib.sha256(weights(run).tobytes()).hexdigest()
    assert digest == result["weights_sha256"]


@pytest.mark.one_mpi
def test_the_same_command_twice_gives_the_same_weights_and_quiet_prints_nothing(
    folder: Path,
) -> None:
    for run, quiet in (("one", ()), ("two", ("--quiet",))):
        job = train(folder, 4, "--dropout", "0.1", "--out", run, *quiet)
        assert job.returncode == 0, job.stdout
        assert bool(job.stdout) is not bool(quiet)
    first = summary(folder / "one")["weights_sha256"]
    assert len(first) == 64
    assert summary(folder / "two")["weights_sha256"] == first


@pytest.mark.one_mpi
def test_several_workers_and_servers_equal_one_worker_with_a_large_batch(folder: Path) -> None:
    common = ("--dtype", "float64", "--grad-clip", "0.05")
    for workers, servers, batch in ((3, 1, "2"), (1, 1, "6"), (1, 2, "6")):
        job = train(
            folder, workers + servers, *common, "--servers", str(servers), "--batch-size", batch,
            "--out", f"{workers}-{servers}",
        )  # fmt: skip
        assert job.returncode == 0, job.stdout
    one = weights(folder / "1-1")
    assert one.dtype == np.float64
    for others in ("3-1", "1-2"):
        assert np.abs(weights(folder / others) - one).max() < 1e-9


@pytest.mark.parametrize(("servers", "step"), [(1, 15), (2, 5)])
@pytest.mark.one_mpi
def test_a_resumed_run_ends_with_the_weights_of_an_uninterrupted_one(
    folder: Path, servers: int, step: int
) -> None:
    flags = ("--servers", str(servers), "--checkpoint-every", "5", "--keep-checkpoints", "0")
    whole = train(folder, servers + 2, *flags, "--dropout", "0.1", "--out", "whole")
    assert whole.returncode == 0, whole.stdout
    checkpoint = f"whole/checkpoints/step-{step:06d}-v{step:06d}"
    resumed = ("--resume", checkpoint, "--out", "rest")
    rest = train(folder, servers + 2, *flags, "--dropout", "0.1", *resumed)
    assert rest.returncode == 0, rest.stdout
    again = summary(folder / "rest")["weights_sha256"]
    assert again == summary(folder / "whole")["weights_sha256"]


def test_local_steps_go_on_on_other_ranks_with_what_each_worker_had(folder: Path) -> None:
    flags = (
        "--mode",
        "local",
        "--local-steps",
        "2",
        "--checkpoint-every",
        "10",
        "--dropout",
        "0.1",
    )
    whole = train(folder, 4, *flags, "--keep-checkpoints", "0", "--out", "whole")
    assert whole.returncode == 0, whole.stdout
    half = folder / "whole/checkpoints/step-000010-v000005"
    assert len(list(half.glob("worker-*.safetensors"))) == 3
    rest = train(folder, 4, "--resume", str(half), "--servers", "2", "--out", "rest")
    assert rest.returncode == 0, rest.stdout
    again = summary(folder / "rest")
    assert again["weights_sha256"] == summary(folder / "whole")["weights_sha256"]


@pytest.mark.parametrize("mode", ["async", "ssp"])
@pytest.mark.one_mpi
def test_a_resumed_job_computes_each_gradient_of_the_budget_once(folder: Path, mode: str) -> None:
    flags = ("--mode", mode, "--servers", "2", "--checkpoint-every", "5", "--keep-checkpoints", "0")
    assert train(folder, 4, *flags, "--out", "whole").returncode == 0
    rest = train(
        folder, 4, *flags, "--resume", "whole/checkpoints/step-000010-v000020", "--out", "rest"
    )
    assert rest.returncode == 0, rest.stdout
    result = summary(folder / "rest")
    assert result["tokens"] == 20 * 2 * 2 * 16
    assert sum(metrics(folder / "rest", "train")[-1]["clocks"].values()) == 40


@pytest.mark.one_mpi
def test_settings_come_from_a_file_and_flags_win(folder: Path) -> None:
    (folder / "settings.toml").write_text('mode = "async"\n[model]\nn-embd = 16\n')
    job = train(folder, 2, "--config", "settings.toml", "--n-embd", "8", "--out", "run")
    assert job.returncode == 0, job.stdout
    settings = json.loads((folder / "run" / "config.json").read_text())["settings"]
    assert (settings["mode"], settings["n_embd"]) == ("async", 8)


@pytest.mark.one_mpi
def test_early_stopping_ends_the_run_before_its_budget(folder: Path) -> None:
    job = train(
        folder, 3, "--max-steps", "400", "--lr", "0", "--min-lr", "0", "--eval-every", "2",
        "--early-stop-patience", "3", "--out", "run",
    )  # fmt: skip
    assert job.returncode == 0, job.stdout
    result = summary(folder / "run")
    assert result["stopped_by"] == "early_stop"
    assert result["steps"] < 20


def test_no_rank_pickles_anything(folder: Path) -> None:
    without_pickle = (
        "import pickle, sys\n"
        "def refuse(*args, **kwargs):\n"
        "    raise RuntimeError('pickled')\n"
        "pickle.dumps = pickle.loads = pickle.dump = pickle.load = refuse\n"
        "from psdp.worker import main\n"
        "sys.exit(main())\n"
    )
    job = train(folder, 4, "--servers", "2", "--out", "run", code=without_pickle)
    assert job.returncode == 0, job.stdout
    assert summary(folder / "run")["stopped_by"] == "budget"


def test_a_pipe_gets_plain_lines(folder: Path) -> None:
    job = train(folder, 3, "--out", "run")
    assert "\r" not in job.stdout.replace("\r\n", "\n")
    assert "step     20  validation loss" in job.stdout
