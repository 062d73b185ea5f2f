"""python -m psdp.tokenize: shards of tokens with an account, the same for the same texts."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import numpy as np
import pytest

from psdp.config import DataConfig
from psdp.data.corpus import load_corpus
from psdp.tokenize import main


@pytest.fixture
def texts(tmp_path: Path) -> Path:
    folder = tmp_path / "texts"
    folder.mkdir()
    (folder / "a.txt").write_text("the parameter server 梯度\n" * 40)
    records = [{"text": f"worker {n} pushes"} for n in range(30)]
    (folder / "b.jsonl.gz").write_bytes(gzip.compress("\n".join(map(json.dumps, records)).encode()))
    return folder


def contents(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in folder.iterdir()}


@pytest.mark.parametrize("tokenizer", ["bpe", "byte", "char"])
def test_the_folder_is_the_corpus_that_the_texts_are(
    texts: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    tokenizer: str,
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    out, size = tmp_path / "out", 280 if tokenizer == "bpe" else None
    flags = ["--tokenizer", tokenizer, *(["--vocab-size", "280"] if size else [])]
    assert main([str(texts), "--out", str(out), "--shard-tokens", "99", *flags]) == 0
    assert str(out) in capsys.readouterr().out
    read = load_corpus(DataConfig(corpus=(str(out),)))
    direct = load_corpus(DataConfig(corpus=(str(texts),), tokenizer=tokenizer, vocab_size=size))
    rows = []
    for corpus in (read, direct):
        row = np.empty(corpus.train.size, np.int64)
        corpus.train.read(0, row)
        rows.append(row.tolist())
    assert rows[0] == rows[1]
    assert read.tokenizer == direct.tokenizer
    assert len(read.train.shards) > 2


def test_two_runs_give_the_same_bytes(texts: Path, tmp_path: Path) -> None:
    for name in ("one", "two"):
        assert main([str(texts), "--out", str(tmp_path / name), "--vocab-size", "280"]) == 0
    assert contents(tmp_path / "one") == contents(tmp_path / "two")


@pytest.mark.parametrize(
    ("flags", "status", "message"),
    [
        (["--vocab-size", "256"], 2, "needs --vocab-size 257 at least, got 256"),
        (["--tokenizer", "byte", "--vocab-size", "300"], 2, "--vocab-size 300 is for subwords"),
        (["--shard-tokens", "0"], 2, "--shard-tokens must be at least 1"),
        (["--text-field", "body"], 3, "has no 'body', but 'text'; name it with --text-field"),
        (["--tokenizer", "gone.json"], 3, "gone.json does not exist"),
        (["--prompt-field", "asked"], 2, "--prompt-field asked needs --prompt-separator"),
        (["--nothing"], 2, "unrecognized arguments"),
    ],
)
def test_what_cannot_be_is_one_line_and_leaves_nothing(
    texts: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    flags: list[str],
    status: int,
    message: str,
) -> None:
    assert main([str(texts), "--out", str(tmp_path / "out"), *flags]) == status
    said = capsys.readouterr().err
    assert message in said
    assert said.count("psdp:") == said.count("\n") == 1
    assert [*tmp_path.iterdir()] == [texts]


def test_files_of_tokens_are_refused(
    texts: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    np.save(texts / "c.npy", np.arange(9))
    assert main([str(texts), "--out", str(tmp_path / "out")]) == 3
    assert "c.npy is tokenised already" in capsys.readouterr().err


def test_prompts_go_before_the_texts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    asked, out = tmp_path / "asked.jsonl", tmp_path / "out"
    records = [{"prompt": f"to {n}, add 1", "completion": str(n + 1)} for n in range(90)]
    asked.write_text("\n".join(map(json.dumps, records)))
    flags = {"text_field": "completion", "prompt_field": "prompt", "prompt_separator": " =>"}
    argv = [
        word for name, value in flags.items() for word in (f"--{name}".replace("_", "-"), value)
    ]
    assert main([str(asked), "--out", str(out), "--vocab-size", "280", *argv]) == 0
    how = {"window": "document", "prompt_separator": " =>"}
    read = load_corpus(DataConfig(corpus=(str(out),), **how))
    direct = {"corpus": (str(asked),), "tokenizer": "bpe", "vocab_size": 280, "window": "document"}
    assert read.sha256 == load_corpus(DataConfig(**flags | direct)).sha256


def test_all_files_that_hold_no_text_are_named(
    texts: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("0.txt", "c.txt"):
        (texts / name).write_bytes("é".encode("latin-1"))
    assert main([str(texts), "--out", str(tmp_path / "out"), "--tokenizer", "byte"]) == 3
    said = capsys.readouterr().err
    assert "2 of 4 files hold no text" in said
    assert all(str(texts / name) in said for name in ("0.txt", "c.txt"))
    assert [*tmp_path.iterdir()] == [texts]
