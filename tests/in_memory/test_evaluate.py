"""Evaluating a checkpoint: what the run itself found, whoever shares the work."""

from __future__ import annotations

import json
import math
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from jobs import Training, train
from mpi import run_job

from psdp.errors import ConfigError, DataError
from psdp.evaluate import Evaluation, evaluate, main, parse
from psdp.records import console
from psdp.transport.in_memory_world import InMemoryWorlds
from psdp.transport.world import World

TEXT = "the quick brown fox jumps over the lazy dog, 狐狸 🦊.\n" * 40


def evaluated(ranks: int, *args: object) -> Evaluation:
    """Return what so many ranks find together.

    Raises:
        PsdpError: they cannot.
    """
    found: list[Evaluation] = []

    def live(world: World) -> int:
        evaluation = evaluate(world, parse([*map(str, args), "--threads", "1"]))
        found.extend(() if evaluation is None else (evaluation,))
        return 0

    for end in InMemoryWorlds(["here"] * ranks).run(live, 30):
        if isinstance(end, BaseException):
            raise end.__context__ or end
    (evaluation,) = found
    return evaluation


@pytest.fixture
def text(tmp_path: Path) -> Path:
    file = tmp_path / "text.txt"
    file.write_text(TEXT)
    return file


def of_text(folder: Path, text: Path, **settings: Any) -> Training:
    how = {"corpus": [str(text)], "vocab_size": None, "val_fraction": 0.2} | settings
    return train(folder, **how)


@pytest.mark.parametrize("tokenizer", ["byte", "bpe"])
def test_windows_that_respect_documents_count_what_the_run_counted(
    tmp_path: Path, text: Path, tokenizer: str
) -> None:
    how = {"window": "document", "document_separator": "\n", "tokenizer": tokenizer}
    run = of_text(tmp_path / "run", text, **how, eval_every=3)
    found = evaluated(3, run.folder)
    assert found.tokens == run.summary["val_units"] == run.summary["val_split_units"]
    assert found.loss == pytest.approx(run.summary["val_loss"], rel=1e-12)


def test_completions_are_evaluated_of_whatever_fields_they_are(tmp_path: Path) -> None:
    file = tmp_path / "asked.jsonl"
    records = [{"asked": f"{n}+1", "told": str(n + 1), "other": str(n + 2)} for n in range(90)]
    file.write_text("\n".join(map(json.dumps, records)))
    how: dict[str, Any] = {"window": "document", "document_separator": "\n", "tokenizer": "char"}
    how |= {"text_field": "told", "prompt_field": "asked", "prompt_separator": "="}
    how |= {"val_corpus": [str(file)], "val_fraction": 0.1, "eval_every": 6}
    run = of_text(tmp_path / "run", file, **how)
    (*_, last) = run.metrics("eval")
    found = evaluated(2, run.folder, "--corpus", file)
    assert found.loss == pytest.approx(last["val_loss"], rel=1e-12)
    assert evaluated(2, run.folder, "--corpus", file, "--text-field", "other").loss != found.loss
    with pytest.raises(ConfigError, match="--prompt-field and --text-field are both asked"):
        evaluated(1, run.folder, "--text-field", "asked")


@pytest.mark.parametrize("ranks", [1, 3])
def test_the_runs_own_validation_comes_out_as_in_the_run(tmp_path: Path, ranks: int) -> None:
    run = train(tmp_path / "run", eval_every=2)
    (*_, last) = run.metrics("eval")
    found = evaluated(ranks, run.folder)
    assert found.tokens == run.summary["val_units"] == 50
    assert found.loss == pytest.approx(last["val_loss"], rel=1e-12)
    assert found.accuracy == pytest.approx(last["accuracy"])
    assert found.bits_per_byte is None, "its tokens stand for no text"
    assert "bits_per_byte" not in last
    name = run.checkpoints()[6].name
    assert str(found).startswith(f"{run.folder} ({name}) on {tmp_path}/corpus.npy, 2,051 tokens")


@pytest.mark.parametrize("watched", [True, False])
def test_at_a_terminal_rank_0_shows_how_far_it_is(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    watched: bool,
) -> None:
    run = train(tmp_path / "run")
    capsys.readouterr()
    monkeypatch.setattr(console, "open_terminal", lambda: sys.stderr if watched else None)
    evaluated(2, run.folder)
    out, err = capsys.readouterr()
    assert (out, "2.00/2.00 [" in err, "bat/s" in err) == ("", watched, watched)


def test_records_may_have_another_field_than_those_of_the_run(tmp_path: Path, text: Path) -> None:
    run = of_text(tmp_path / "run", text, max_steps=2)
    records, other = tmp_path / "other.jsonl", tmp_path / "other.txt"
    records.write_text(json.dumps({"body": TEXT[:200]}))
    other.write_text(TEXT[:200])
    with pytest.raises(DataError, match="has no 'text', but 'body'; name it with --text-field"):
        evaluated(1, run.folder, "--corpus", records)
    found = evaluated(1, run.folder, "--corpus", records, "--text-field", "body")
    assert found.loss == evaluated(1, run.folder, "--corpus", other).loss


def test_any_corpus_is_evaluated_as_a_whole(tmp_path: Path, text: Path) -> None:
    run = of_text(tmp_path / "run", text, max_steps=2)
    other = tmp_path / "other.txt"
    other.write_text(TEXT[:200])
    found = evaluated(1, run.folder, "--corpus", other)
    size = len(TEXT[:200].encode())
    assert found.tokens == size - 1
    assert found.bits_per_byte == pytest.approx(found.loss / math.log(2), rel=1e-12)
    assert f"{size} tokens, vocabulary 256" in found.about


@pytest.mark.parametrize("tokenizer", ["char", "bpe"])
def test_bytes_are_those_of_the_text_whatever_the_tokenizer(
    tmp_path: Path, text: Path, tokenizer: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    size = 280 if tokenizer == "bpe" else None
    run = of_text(
        tmp_path / "run", text, tokenizer=tokenizer, vocab_size=size, max_steps=2, eval_every=1
    )
    found = evaluated(1, run.folder, "--corpus", text)
    own = run.job.task.corpus.tokenizer  # type: ignore[attr-defined]
    ids, first = own.encode(TEXT), own.encode(TEXT)[:1]
    assert found.tokens == ids.size - 1
    assert found.bits_per_byte is not None
    (*_, last) = run.metrics("eval")
    assert run.summary["bits_per_byte"] == last["bits_per_byte"]
    again = evaluated(2, run.folder)
    assert again.bits_per_byte == pytest.approx(last["bits_per_byte"], rel=1e-12)
    of_text_in_bytes = found.loss * found.tokens / math.log(2) / found.bits_per_byte
    assert of_text_in_bytes == pytest.approx(len(TEXT.encode()) - len(own.decode(first)))


def test_the_best_checkpoint_can_be_asked_for(tmp_path: Path) -> None:
    run = train(tmp_path / "run", eval_every=1, checkpoint_every=1, lr=0.1)
    losses = [record["val_loss"] for record in run.metrics("eval")]
    best = evaluated(1, run.folder, "--best")
    assert best.loss == pytest.approx(min(losses), rel=1e-12)


def test_what_cannot_be_is_told_in_a_line(
    tmp_path: Path, text: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = of_text(tmp_path / "run", text, val_fraction=0.0, max_steps=1)
    capsys.readouterr()
    for args, status, said in (
        ([], 3, "kept no text for its validation; name one with --corpus"),
        (["--corpus", str(tmp_path / "none")], 3, "none"),
        (["--threads", "-1"], 2, "--threads must be at least 0"),
        (["--best"], 6, "no best checkpoint"),
    ):
        assert main([str(run.folder), *args]) == status
        error = capsys.readouterr().err
        assert said in error
        assert error.count("\n") == 1


def test_a_corpus_of_another_tokenizer_is_refused(tmp_path: Path, text: Path) -> None:
    run = of_text(tmp_path / "run", text, max_steps=1)
    tokens = tmp_path / "tokens.npy"
    np.save(tokens, np.arange(300, dtype=np.uint16))
    with pytest.raises(DataError, match="not in the vocabulary of 256 tokens"):
        evaluated(1, run.folder, "--corpus", tokens)


@pytest.mark.mpi
@pytest.mark.one_mpi
def test_ranks_of_mpi_share_the_work(tmp_path: Path) -> None:
    run = train(tmp_path / "run", eval_every=2)
    ended = run_job(2, "psdp.evaluate", str(run.folder))
    assert ended.returncode == 0, ended.stdout
    assert ended.stdout.count("50 tokens predicted") == 1
