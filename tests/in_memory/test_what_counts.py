"""Where some targets do not count: each that does weighs the same, whoever computes it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from jobs import VOCAB, Training, train

from psdp.audit.auditing import Audit
from psdp.audit.findings import Verdict
from psdp.errors import CheckpointError, ConfigError

pytestmark = pytest.mark.timeout(90)


def documents(folder: Path) -> str:
    """Return a file of documents of very different lengths, which token 0 ends."""
    rng = np.random.default_rng(5)
    lengths = rng.choice([1, 2, 3, 30], 300)
    rows = [[*rng.integers(1, VOCAB, length), 0] for length in lengths]
    path = folder / "documents.npy"
    np.save(path, np.concatenate(rows).astype(np.uint8))
    return str(path)


def run(folder: Path, **settings: Any) -> Training:
    told: dict[str, Any] = {"window": "document", "document_separator": "0", "val_fraction": 0.1}
    told |= {"corpus": [documents(folder.parent)], "eval_every": 3}
    return train(folder, **told | settings)


def records(run: Training, kind: str) -> list[dict[str, Any]]:
    lines = (run.folder / "metrics.jsonl").read_text().splitlines()
    return [record for record in map(json.loads, lines) if record["kind"] == kind]


@pytest.mark.parametrize(
    "how",
    [
        {"workers": 1, "batch_size": 2, "grad_accum": 6},
        {"workers": 3, "batch_size": 4},
        {"workers": 2, "batch_size": 3, "grad_accum": 2, "servers": 2},
        {"workers": 3, "batch_size": 2, "grad_accum": 2, "mode": "allreduce"},
        {"workers": 2, "batch_size": 3, "virtual_workers": 4},
    ],
)
def test_it_is_as_one_big_batch(tmp_path: Path, how: dict[str, Any]) -> None:
    one = run(tmp_path / "one", workers=1, batch_size=12)
    many = run(tmp_path / "many", **how)
    np.testing.assert_allclose(many.weights, one.weights, rtol=1e-8, atol=1e-10)
    for kind, name in (("train", "loss"), ("eval", "val_loss")):
        own, other = ([r[name] for r in records(job, kind)] for job in (one, many))
        assert other == pytest.approx(own, rel=1e-10), kind
    assert len(records(many, "train")) == 6


def test_averaged_steps_of_workers_are_as_one_big_batch_too(tmp_path: Path) -> None:
    how: dict[str, Any] = {"optimizer": "sgd", "lr": 0.5, "grad_clip": 0.0, "warmup_steps": 0}
    one = run(tmp_path / "one", workers=1, batch_size=12, **how)
    how |= {"mode": "local", "local_steps": 1, "outer_optimizer": "average"}
    many = run(tmp_path / "many", workers=3, batch_size=2, grad_accum=2, **how)
    np.testing.assert_allclose(many.weights, one.weights, rtol=1e-8, atol=1e-10)
    losses = ([r["loss"] for r in job.metrics("train")] for job in (one, many))
    assert next(losses) == pytest.approx(next(losses), rel=1e-10)


@pytest.mark.parametrize(
    "how",
    [
        {"mode": "sync", "servers": 2},
        {"mode": "async"},
        {"mode": "ssp", "grad_accum": 2},
        {"mode": "local", "local_steps": 2},
        {"mode": "easgd", "local_steps": 2},
    ],
)
def test_what_counts_is_recorded_and_audited(tmp_path: Path, how: dict[str, Any]) -> None:
    how |= {"dropout": 0.1, "label_smoothing": 0.1, "checkpoint_every": 2}
    trained = run(tmp_path / "run", workers=2, record=True, **how)
    audit = Audit(trained.folder)
    findings = audit.check()
    audit.recompute(2, seed=0)
    assert not findings.contradicted, findings.all
    again = [found.verdict for found in findings.all if found.check == "recomputed"]
    assert {*again} == {Verdict.PROVED}, findings.all
    with pytest.raises(ConfigError, match="its corpus alone says"):
        audit.write_uses(tmp_path / "uses.csv")
    again = run(tmp_path / "again", workers=2, replay=str(trained.folder), **how)
    np.testing.assert_array_equal(again.weights, trained.weights)


@pytest.mark.parametrize("how", [{}, {"mode": "local", "local_steps": 3}, {"mode": "allreduce"}])
def test_a_run_that_is_taken_up_again_has_the_same_bits(
    tmp_path: Path, how: dict[str, Any]
) -> None:
    how |= {"workers": 2, "dropout": 0.1, "label_smoothing": 0.1, "checkpoint_every": 3}
    whole = run(tmp_path / "whole", **how)
    again = run(tmp_path / "again", resume=whole.checkpoints()[3], **how)
    assert again.weights_sha256 == whole.weights_sha256
    with pytest.raises(CheckpointError, match="--window packed differs"):
        run(tmp_path / "packed", resume=whole.checkpoints()[3], **how | {"window": "packed"})


def test_where_documents_end_must_be_said(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="--window document has to know where documents end"):
        run(tmp_path / "run", document_separator=None)


@pytest.mark.parametrize("tokenizer", ["char", "bpe"])
def test_of_instructions_the_completions_count(tmp_path: Path, tokenizer: str) -> None:
    file, answers = tmp_path / "asked.jsonl", [*range(5, 205)]
    with file.open("w") as lines:
        for answer in answers:
            record = {"prompt": f"5+{answer - 5}", "completion": str(answer)}
            print(json.dumps(record), file=lines)
    settings: dict[str, Any] = {
        "tokenizer": tokenizer,
        "vocab_size": None if tokenizer == "char" else 300,
        "val_corpus": [str(file)],
        "text_field": "completion",
        "prompt_field": "prompt",
        "prompt_separator": "=",
        "document_separator": "\n",
    }
    trained = run(tmp_path / "run", workers=2, corpus=[str(file)], **settings)
    told = json.loads((trained.folder / "config.json").read_text())["corpus"]
    whole = trained.job.task.validation_split_units
    assert told["train_counted"] == whole == trained.summary["val_split_units"]
    if tokenizer == "char":
        assert whole == sum(len(str(answer)) + 1 for answer in answers) - 1, "and its end, but once"
    else:
        assert len(answers) * 2 - 1 <= whole
