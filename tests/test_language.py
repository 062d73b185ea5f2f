"""The task of predicting text: what workers read, and what an evaluation is a sample of."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from psdp.backend import make_backend
from psdp.config import Config, RunConfig, settings
from psdp.data.corpus import load_corpus
from psdp.data.tokens import Tokens
from psdp.errors import DataError
from psdp.job import Job
from psdp.language import SEQUENCES, Language
from psdp.task import Measured, Share, Step

SMALL: dict[str, Any] = {"n_layer": 1, "n_head": 2, "n_embd": 8, "block_size": 8, "batch_size": 3}
VOCAB = 16


def task(val_tokens: int = 1000, **settings: Any) -> Language:
    config = Config.from_flat(SMALL | settings).resolved()
    tokens = np.random.default_rng(0).integers(0, VOCAB, 1000 + val_tokens).astype(np.uint8)
    return Language(config, VOCAB, Tokens.of(tokens[:1000]), Tokens.of(tokens[1000:]))


def loss_of(task: Language, parts: int = 1) -> tuple[float, int]:
    """Return the mean loss of fresh weights, and the tokens that were counted."""
    weights = task.table.initial(1, "float64") + 0.1
    model = task.model(make_backend("cpu", "float64"), weights, None)
    batches = [task.validation(part, parts) for part in range(parts)]
    total = sum((model.evaluate(b) for part in batches for b in part), Measured(0, 0.0))
    return total.loss / total.units, total.units


def test_the_validation_loss_does_not_depend_on_the_batch_size() -> None:
    loss, units = loss_of(task(eval_batches=2, batch_size=1))
    assert units == 2 * SEQUENCES * 8 < task().validation_split_units
    for batch_size in (2, 5, 12, 100):
        other = task(eval_batches=2, batch_size=batch_size)
        assert loss_of(other, parts=3) == (pytest.approx(loss, rel=1e-12), units)
        assert other.validation_units == units


def test_a_batch_of_an_evaluation_is_one_of_the_default_size_as_its_help_says() -> None:
    assert RunConfig().batch_size == SEQUENCES
    setting = next(f for _, f in settings() if f.name == "eval_batches")
    assert f"batches of {SEQUENCES} sequences" in setting.metadata["help"]


@pytest.mark.parametrize("eval_batches", [0, 1000])
def test_a_sample_is_of_the_whole_split_at_most(eval_batches: int) -> None:
    whole = task(eval_batches=eval_batches)
    assert whole.validation_units == whole.validation_split_units == 999
    assert loss_of(whole)[1] == 999


@pytest.mark.parametrize("window", ["packed", "document"])
def test_the_bytes_of_an_evaluation_are_those_of_its_targets(tmp_path: Path, window: str) -> None:
    (tmp_path / "text.txt").write_text("狐 jumps.\nover 🦊\n" * 200)
    said = {"corpus": [str(tmp_path / "text.txt")], "tokenizer": "char", "eval_batches": 1}
    said |= {"window": window, "document_separator": "\n"}
    config = Config.from_flat(SMALL | said).resolved()
    corpus = load_corpus(config.data)
    of_text = Language.of(config, corpus)
    targets = [batch.targets[batch.counted] for batch in of_text.validation(0, 1)]
    text = corpus.tokenizer.decode(np.concatenate(targets))
    assert of_text.validation_bytes == len(text.encode()) > of_text.validation_units
    assert "bits_per_byte" in of_text.measures
    assert Language.of(config, corpus, of_text.counts).validation_bytes == len(text.encode())


def test_without_a_validation_split_nothing_is_evaluated() -> None:
    without = task(val_fraction=0.0)
    assert list(without.validation(0, 1)) == []
    assert without.validation_units == without.validation_split_units == 0


def test_a_corpus_shorter_than_a_block_is_refused() -> None:
    with pytest.raises(DataError, match="corpus too short for --block-size 5000"):
        task(block_size=5000)
    with pytest.raises(DataError, match="validation split too short"):
        task(block_size=999, val_tokens=500)


def test_a_batch_is_a_function_of_seed_worker_and_number() -> None:
    one, other = task(), task()
    for number in (5, 0, 5):
        for worker in (1, 0):
            share = Share(7, worker, 2)
            read = one.batch(share, number).tokens.copy()
            assert (other.batch(share, number).tokens == read).all()
            assert (one.batch(Share(8, worker, 2), number).tokens != read).any()


def test_workers_have_a_share_each_unless_batches_are_dealt_out() -> None:
    def share(worker: int, **settings: Any) -> Share:
        config = Config.from_flat(SMALL | {"seed": 5, "servers": 2} | settings).resolved()
        return Job(config, 5, task()).share(worker)

    assert [share(worker) for worker in (1, 2, 3)] == [Share(5, number, 3) for number in range(3)]
    assert share(1, balance="dynamic") == share(3, balance="dynamic") == Share(5, 0, 1)


def test_what_a_batch_counts_is_in_tokens() -> None:
    assert task().unit == "token"
    assert task().units_per_batch == 24
    assert task().batch(Share(1, 0, 1), 0).tokens.size == 24


def test_a_model_adds_its_loss_and_its_gradient() -> None:
    reading = task()
    weights = reading.table.initial(1, "float64")
    gradient = np.zeros_like(weights)
    model = reading.model(make_backend("cpu", "float64"), weights, gradient)
    batch = reading.batch(Share(1, 0, 1), 0)
    parts: list[slice] = []
    model.add_gradient(batch, Step(ready=parts.append))
    loss, once = float(model.loss[0]), gradient.copy()
    model.add_gradient(batch, Step(scale=2.0))
    assert float(model.loss[0]) == pytest.approx(3 * loss)
    np.testing.assert_allclose(gradient, 3 * once, rtol=1e-12)
    told = np.zeros(gradient.size, int)
    for part in parts:
        told[part] += 1
    assert (told == 1).all(), "every part of the gradient is told of once"


def test_labels_are_smoothed_where_that_is_asked_for_but_not_in_an_evaluation() -> None:
    losses = []
    for smoothing in (0.0, 0.25):
        reading = task(label_smoothing=smoothing)
        weights = reading.table.initial(1, "float64")
        model = reading.model(make_backend("cpu", "float64"), weights, np.zeros_like(weights))
        model.add_gradient(reading.batch(Share(1, 0, 1), 0), Step())
        losses.append((float(model.loss[0]), loss_of(reading)))
    (plain, evaluated), (smoothed, again) = losses
    assert plain != smoothed
    assert evaluated == again
