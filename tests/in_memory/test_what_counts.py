"""Where some targets do not count: each that does weighs the same, whoever computes it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from jobs import VOCAB, Training, train

from psdp.audit.auditing import Audit
from psdp.errors import ConfigError

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


@pytest.mark.parametrize("how", [{"mode": "async"}, {"mode": "local", "local_steps": 2}])
def test_what_counts_is_recorded_and_audited(tmp_path: Path, how: dict[str, Any]) -> None:
    trained = run(tmp_path / "run", workers=2, record=True, **how)
    audit = Audit(trained.folder)
    findings = audit.check()
    if trained.job.config.run.mode == "async":
        audit.recompute(2, seed=0)
    assert not findings.contradicted, findings.all
    with pytest.raises(ConfigError, match="its corpus alone says"):
        audit.write_uses(tmp_path / "uses.csv")
    again = run(tmp_path / "again", workers=2, replay=str(trained.folder), **how)
    np.testing.assert_array_equal(again.weights, trained.weights)


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
