"""The examples, as real jobs: what they reach is what other ways to it reach."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import factorisation
import logistic
import numpy as np
import pytest
import pytorch
import torch
from mpi import ROOT, run_job

import psdp
from psdp.config import Config
from psdp.errors import CheckpointError

pytestmark = [pytest.mark.mpi, pytest.mark.one_mpi]

CONSTANT = ("--lr-schedule", "constant", "--warmup-steps", "0", "--grad-clip", "0")
SEED = Config().run.seed


def train(cwd: Path, example: str, out: str, *flags: str, ranks: int = 3) -> str:
    """Run an example to its end; return what it printed. Its run folder is ``out``."""
    script = str(ROOT / "examples" / f"{example}.py")
    ended = run_job(ranks, script, "--out", out, *flags, cwd=cwd)
    assert ended.returncode == 0, ended.stdout
    return ended.stdout


def summary(run: Path) -> dict[str, Any]:
    record: dict[str, Any] = json.loads((run / "summary.json").read_text())
    return record


def likeliest() -> np.ndarray:
    """Return the weights and the bias that are likeliest on the training data, by Newton's
    method."""
    x = np.column_stack([logistic.X[: logistic.TRAIN], np.ones(logistic.TRAIN)])
    y, found = logistic.Y[: logistic.TRAIN], np.zeros(x.shape[1])
    for _ in range(10):
        p = 1 / (1 + np.exp(-x @ found))
        found -= np.linalg.solve((x.T * (p * (1 - p))) @ x, x.T @ (p - y))
    return found


def test_the_short_one_is_short() -> None:
    assert len((ROOT / "examples/logistic.py").read_text("utf-8").splitlines()) <= 40


@pytest.mark.parametrize("servers", [1, 2])
def test_in_sync_two_workers_descend_as_one_process_does(tmp_path: Path, servers: int) -> None:
    flags = ("--servers", str(servers), "--dtype", "float64", "--max-steps", "30")
    train(tmp_path, "logistic", "run", *CONSTANT, *flags, "--lr", "0.5", ranks=servers + 2)
    weights = {"w": np.zeros(logistic.FEATURES), "b": np.zeros(())}
    alone = logistic.Logistic(Config.from_flat({"batch_size": 200}))
    for number in range(30):
        gradient = {name: np.zeros_like(of) for name, of in weights.items()}
        rows = alone.batch(psdp.Share(SEED, 0, 1), number)
        alone.add_gradient(weights, gradient, rows)
        weights = {name: of - 0.5 * gradient[name] for name, of in weights.items()}
    found = psdp.load(tmp_path / "run")
    for name, of in weights.items():
        np.testing.assert_allclose(found[name], of, rtol=1e-9)
        assert found[name].shape == of.shape


@pytest.mark.parametrize("mode", ["ssp", "local"])
def test_every_way_leads_to_the_likeliest_weights(tmp_path: Path, mode: str) -> None:
    said = train(tmp_path, "logistic", "run", "--mode", mode)
    found = psdp.load(tmp_path / "run", best=True)
    np.testing.assert_allclose([*found["w"], found["b"]], likeliest(), atol=0.15)
    assert "80,000 samples to train on" in said
    assert "samples/s" in said
    assert "token" not in said
    told = summary(tmp_path / "run")
    assert (told["samples"], told["val_units"], told["val_split_units"]) == (80_000, 2000, 2000)
    assert told["accuracy"] > 0.78
    assert "perplexity" not in told


def test_a_run_goes_on_where_it_was_as_if_it_had_not_stopped(tmp_path: Path) -> None:
    flags = ("--max-steps", "40", "--checkpoint-every", "15", "--mode", "sync")
    train(tmp_path, "logistic", "whole", *flags)
    shutil.copytree(tmp_path / "whole/checkpoints/step-000015-v000015", tmp_path / "part")
    train(tmp_path, "logistic", "rest", "--resume", "part")
    whole, rest = summary(tmp_path / "whole"), summary(tmp_path / "rest")
    assert rest["weights_sha256"] == whole["weights_sha256"]
    assert rest["samples"] == whole["samples"]


def test_a_record_is_replayed_with_batches_that_rank_0_deals(tmp_path: Path) -> None:
    flags = ("--max-steps", "40", "--mode", "async", "--balance", "dynamic", "--record")
    train(tmp_path, "logistic", "run", *flags)
    train(tmp_path, "logistic", "again", "--replay", "run")
    same = {summary(tmp_path / run)["weights_sha256"] for run in ("run", "again")}
    assert len(same) == 1


def test_another_task_goes_on_with_nothing(tmp_path: Path) -> None:
    train(tmp_path, "logistic", "run", "--max-steps", "2")
    script = str(ROOT / "examples/factorisation.py")
    ended = run_job(3, script, "--resume", "run", cwd=tmp_path)
    assert ended.returncode == CheckpointError.exit_code
    assert "is of a run of Logistic, this one is of Factorisation" in ended.stdout


def test_factors_explain_ratings_as_well_as_alternating_least_squares_do(tmp_path: Path) -> None:
    f = factorisation
    said = train(tmp_path, "factorisation", "run", "--mode", "async", "--quiet")
    assert said.startswith("test error")
    user, item, rating = f.USER[: f.KNOWN], f.ITEM[: f.KNOWN], f.RATING[: f.KNOWN]
    rng = np.random.default_rng(1)
    of = {
        "users": np.zeros((f.USERS, f.FACTORS)),
        "items": rng.normal(0, 0.5, (f.ITEMS, f.FACTORS)),
    }
    for _ in range(30):
        for own, other, mine, theirs in (
            ("users", "items", user, item), ("items", "users", item, user),
        ):  # fmt: skip
            for row in range(len(of[own])):
                seen = mine == row
                x, y = of[other][theirs[seen]], rating[seen]
                ridge = f.RIDGE * seen.sum() * np.eye(f.FACTORS)
                of[own][row] = np.linalg.solve(x.T @ x + ridge, x.T @ y)
    assert f.held_out_error(**psdp.load(tmp_path / "run")) < 1.1 * f.held_out_error(**of)


def test_a_module_is_trained_as_by_its_own_optimizer(tmp_path: Path) -> None:
    how = ("--optimizer", "momentum", "--lr", "0.05", "--momentum", "0.9", "--weight-decay", "0")
    train(tmp_path, "pytorch", "run", *how, *CONSTANT, "--max-steps", "40")
    torch.manual_seed(SEED)
    module = pytorch.network()
    optimizer = torch.optim.SGD(module.parameters(), lr=0.05, momentum=0.9)
    for number in range(40):
        rows = psdp.Share(SEED, 0, 1).rows(number, 100, of=pytorch.TRAIN)
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(module(pytorch.X[rows]), pytorch.Y[rows]).backward()
        optimizer.step()
    found = psdp.load(tmp_path / "run")
    for name, parameter in module.named_parameters():
        np.testing.assert_allclose(found[name], parameter.detach().numpy(), rtol=1e-3, atol=1e-5)


def test_a_module_is_trained_alone_between_averages(tmp_path: Path) -> None:
    said = train(tmp_path, "pytorch", "run", "--mode", "local")
    assert summary(tmp_path / "run")["accuracy"] > 0.95
    assert "tells" in said
