"""A run that begins with the weights of another, or of a folder of Hugging Face's."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from jobs import Training, train
from safetensors.numpy import load_file, save_file

from psdp.errors import PsdpError
from psdp.export import main
from psdp.params import Array

LLAMA = {"preset": "llama", "n_kv_head": 1}
STILL = {"lr": 0.0, "max_steps": 1}
"""Leaves the weights as they are."""


def exported(run: Path, out: Path) -> Path:
    assert main([str(run), "--to", "hf", str(out)]) == 0
    return out


def first_weights(folder: Path, origin: Path, **settings: Any) -> Array:
    """Return the weights (P,) with which a run begins."""
    given = {"init_from": str(origin), **settings}
    job = Training(folder, workers=2, settings=given)
    weights = job.weights.copy()
    job.run()
    assert not np.array_equal(job.weights, weights)
    return weights


def test_a_new_run_begins_with_the_weights_of_a_run_and_the_rest_is_its_own(
    tmp_path: Path,
) -> None:
    before = train(tmp_path / "before", workers=2, checkpoint_every=2, mode="sync")
    own = {"mode": "ssp", "optimizer": "sgd", "lr": 0.5, "servers": 3, "dropout": 0.1, "seed": 5}
    began = first_weights(tmp_path / "after", before.folder, **own)
    assert np.array_equal(began, before.weights)
    told = json.loads((tmp_path / "after" / "config.json").read_text())["settings"]
    latest = str(before.checkpoints()[6])
    assert {name: told[name] for name in own} == own
    assert (told["init_from"], told["n_embd"], told["max_steps"]) == (latest, 16, 6)
    summary = json.loads((tmp_path / "after" / "summary.json").read_text())
    assert summary["steps"] == 6, "none of those before are counted"


@pytest.mark.parametrize("mode", ["sync", "async", "local", "easgd", "allreduce"])
def test_who_computes_has_them_in_every_mode(tmp_path: Path, mode: str) -> None:
    before = train(tmp_path / "before")
    how: dict[str, Any] = {"mode": mode, "eval_every": 1, "init_from": str(before.folder)}
    after = train(tmp_path / "after", workers=2, **how)
    first = after.metrics("eval")[0]["val_loss"]
    assert first == pytest.approx(before.summary["val_loss"], rel=1e-12)


def test_a_checkpoint_may_be_named_and_another_type_asked_for(tmp_path: Path) -> None:
    before = train(tmp_path / "before", checkpoint_every=3)
    named = before.checkpoints()[3]
    began = first_weights(tmp_path / "after", named, dtype="float32")
    assert began.dtype == np.float32
    assert not np.array_equal(began, before.weights.astype(np.float32))


@pytest.mark.parametrize("settings", [{"preset": "gpt2"}, LLAMA], ids=["gpt2", "llama"])
def test_tensors_are_the_same_bits_after_a_round_trip(
    tmp_path: Path, settings: dict[str, Any]
) -> None:
    before = train(tmp_path / "before", dtype="float32", **settings)
    there = exported(before.folder, tmp_path / "there")
    train(tmp_path / "after", init_from=str(there), dtype="float32", servers=2, **STILL)
    back = exported(tmp_path / "after", tmp_path / "back")
    first, last = (load_file(folder / "model.safetensors") for folder in (there, back))
    assert first.keys() == last.keys()
    assert all(np.array_equal(first[name], last[name]) for name in first)
    told = [json.loads((folder / "config.json").read_text()) for folder in (there, back)]
    assert told[0] == told[1]


def test_a_block_may_be_longer_where_positions_allow(tmp_path: Path) -> None:
    llama = train(tmp_path / "llama", **LLAMA)
    longer = first_weights(tmp_path / "longer", llama.folder, block_size=16)
    assert np.array_equal(longer, llama.weights)
    gpt2 = train(tmp_path / "gpt2", preset="gpt2")
    why = refused(gpt2.folder, tmp_path / "new", 2, block_size=16)
    assert "--block-size 16 differs from 8 of the model in" in why


@pytest.mark.parametrize("exports", [False, True])
def test_of_learned_positions_the_first_are_taken_for_a_shorter_block(
    tmp_path: Path, exports: bool
) -> None:
    before = train(tmp_path / "before", preset="gpt2")
    origin = exported(before.folder, tmp_path / "there") if exports else before.folder
    job = Training(tmp_path / "new", settings={"init_from": str(origin), "block_size": 4})
    names = job.job.table.views(job.weights)
    for name, view in before.job.table.views(before.weights).items():
        expected = view[:4] if name == "embedding.positions" else view
        assert np.array_equal(names[name], expected)
    job.run()


def test_it_is_resumed_without_what_it_began_with(tmp_path: Path) -> None:
    before = train(tmp_path / "before")
    how: dict[str, Any] = {"init_from": str(before.folder), "workers": 2}
    whole = train(tmp_path / "whole", max_steps=6, **how)
    train(tmp_path / "new", max_steps=4, lr_schedule="constant", warmup_steps=0, **how)
    shutil.rmtree(before.folder)
    # As psdp.launch does, which adds --resume to what it was given.
    rest = train(tmp_path / "new", max_steps=6, resume=tmp_path / "new", **how)
    assert rest.summary["steps"] == whole.summary["steps"] == 6


def test_it_is_replayed_to_the_same_bits(tmp_path: Path) -> None:
    before = train(tmp_path / "before", dtype="float32")
    recorded = train(
        tmp_path / "recorded", workers=2, mode="async", record=True, init_from=str(before.folder)
    )
    again = train(tmp_path / "again", workers=2, replay=str(recorded.folder))
    assert again.weights_sha256 == recorded.weights_sha256


def refused(origin: Path | str, out: Path, status: int, **settings: Any) -> str:
    """See that a run is refused with this status, and that nothing is written; return why."""
    with pytest.raises(PsdpError) as refusal:
        Training(out, workers=2, settings={"init_from": str(origin), **settings})
    assert refusal.value.exit_code == status
    assert not out.exists()
    return str(refusal.value)


def test_what_does_not_fit_is_told_in_a_line(tmp_path: Path) -> None:
    before = train(tmp_path / "before", preset="gpt2")
    there = exported(before.folder, tmp_path / "there")

    def says(text: str, origin: Path | str, status: int, **settings: Any) -> None:
        why = refused(origin, tmp_path / "new", status, **settings)
        assert text in why
        assert "\n" not in why

    for origin in (before.folder, there):
        says("--n-layer 2 differs from 1 of the model in", origin, 2, n_layer=2)
        says("differs from", origin, 2, preset="llama")
        says("--vocab-size 300 differs from 64", origin, 2, vocab_size=300)
    says("is a URL", "s3://bucket/run", 2)
    says("or a folder of Hugging Face's", tmp_path / "nowhere", 6)
    weights = there / "model.safetensors"
    tensors = load_file(weights)
    save_file(tensors | {"transformer.wte.weight": np.zeros((3, 16))}, weights)
    says("expected transformer.wte.weight of shape (64, 16), got (3, 16)", there, 6)
    (there / "config.json").write_text('{"model_type": "mamba"}')
    says("gpt2 (GPT2LMHeadModel), llama (LlamaForCausalLM)", there, 6)
    manifest = next((before.folder / "checkpoints").glob("step-*")) / "checkpoint.json"
    manifest.write_text(manifest.read_text().replace('"format": 1', '"format": 2'))
    says("expected checkpoint format 1, got 2", manifest.parent, 6)


def test_another_vocabulary_is_refused(tmp_path: Path) -> None:
    text = tmp_path / "text.txt"
    text.write_text("a fox and a dog. " * 60)
    before = train(tmp_path / "before")
    why = refused(before.folder, tmp_path / "new", 2, corpus=[str(text)])
    assert "--vocab-size 64 is for tokenised corpora" in why
    how: dict[str, Any] = {"corpus": [str(text)], "val_fraction": 0.2, "vocab_size": None}
    of_bytes = train(tmp_path / "of bytes", **how)
    why = refused(of_bytes.folder, tmp_path / "new", 6)
    assert "that model has a vocabulary of 256, the corpus one of 64; give" in why


def test_characters_of_another_run_are_its_own(tmp_path: Path) -> None:
    first, second, third = (tmp_path / f"{n}.txt" for n in range(3))
    first.write_text("a fox and a dog. " * 60)
    second.write_text("and a good fox. " * 60)
    third.write_text("A FOX. " * 60)
    text: dict[str, Any] = {"vocab_size": None, "val_fraction": 0.2}
    before = train(tmp_path / "before", corpus=[str(first)], tokenizer="char", **text)
    own = {**text, "init_from": str(before.folder)}
    after = train(tmp_path / "after", corpus=[str(second)], **own)
    assert after.job.task.identity()["tokenizer"] == before.job.task.identity()["tokenizer"]
    resumed = {"corpus": [str(second)], "resume": tmp_path / "after", **text}
    rest = train(tmp_path / "after", max_steps=8, **resumed)
    assert rest.summary["steps"] == 8
    why = refused(before.folder, tmp_path / "new", 3, corpus=[str(third)], **text)
    assert "is not among the" in why
