"""Subwords of a text: learnt once, tokenised once, and found again."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from psdp.config import DataConfig
from psdp.data.corpus import Corpus, Listener, load_corpus
from psdp.data.subwords import SubwordTokenizer
from psdp.errors import ConfigError, DataError


class Heard(Listener):
    def __init__(self) -> None:
        self.lines: list[str] = []

    def says(self, line: str) -> None:
        self.lines.append(line.split()[0])


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def text(tmp_path: Path, cache: Path) -> Path:
    (tmp_path / "text").mkdir()
    for name in ("a", "b"):
        (tmp_path / "text" / name).write_text(f"the {name} parameter server 梯度\n" * 30)
    return tmp_path / "text"


def load(path: Path, **settings: Any) -> tuple[Corpus, list[str]]:
    heard = Heard()
    settings = {"tokenizer": "bpe", "vocab_size": 280} | settings
    return load_corpus(DataConfig(corpus=(str(path),), **settings), heard), heard.lines


def decoded(corpus: Corpus) -> str:
    ids = np.empty(corpus.train.size + corpus.val.size, np.int64)
    corpus.train.read(0, ids[: corpus.train.size])
    corpus.val.read(0, ids[corpus.train.size :])
    return corpus.tokenizer.decode(ids)


def test_what_was_made_is_found_again(text: Path) -> None:
    first, made = load(text)
    again, found = load(text)
    assert (made, found) == (["learning", "tokenising"], [])
    assert again.sha256 == first.sha256
    assert again.tokenizer == first.tokenizer
    texts = [(text / name).read_text() for name in ("a", "b")]
    assert decoded(first) == "<|endoftext|>".join(texts)
    assert first.sources == (f"{text}/a", f"{text}/b")
    assert first.vocab_size == 280


def test_other_texts_settings_and_tokenizers_make_others(text: Path) -> None:
    hashes = {load(text)[0].sha256}
    corpus, made = load(text, vocab_size=270)
    assert made == ["learning", "tokenising"]
    hashes.add(corpus.sha256)
    corpus, made = load(text, document_separator="\n")
    assert made == ["tokenising"]
    assert "<|endoftext|>" not in decoded(corpus)
    hashes.add(corpus.sha256)
    (text / "c").write_text("more")
    hashes.add(load(text)[0].sha256)
    assert len(hashes) == 4


def test_a_validation_is_of_the_same_subwords(text: Path, tmp_path: Path) -> None:
    (tmp_path / "val").write_text("the parameter")
    corpus, made = load(text, val_corpus=(str(tmp_path / "val"),))
    assert made == ["learning", "tokenising", "tokenising"]
    ids = np.empty(corpus.val.size, np.int64)
    corpus.val.read(0, ids)
    assert corpus.tokenizer.decode(ids) == "the parameter"


def test_a_tokenizer_that_is_there_is_taken(text: Path, tmp_path: Path) -> None:
    own = SubwordTokenizer.trained(["the parameter"], 270)
    (tmp_path / "tokenizer.json").write_text(own.definition)
    corpus, made = load(text, tokenizer=str(tmp_path / "tokenizer.json"), vocab_size=None)
    assert made == ["tokenising"]
    assert corpus.tokenizer == own
    with pytest.raises(ConfigError, match="--vocab-size 3 is smaller"):
        load(text, tokenizer=str(tmp_path / "tokenizer.json"), vocab_size=3)


def test_a_tokenizer_goes_with_tokens_of_another_program(text: Path, tmp_path: Path) -> None:
    own = SubwordTokenizer.trained(["the parameter"], 270)
    (tmp_path / "tokenizer.json").write_text(own.definition)
    own.encode("the parameter " * 40).astype("<u2").tofile(tmp_path / "train.bin")
    settings: dict[str, Any] = {"tokenizer": str(tmp_path / "tokenizer.json"), "vocab_size": None}
    corpus, _ = load(tmp_path / "train.bin", **settings)
    assert decoded(corpus) == "the parameter " * 40
    with pytest.raises(ConfigError, match="--tokenizer bpe is for text"):
        load(tmp_path / "train.bin")


def test_too_few_subwords_are_refused(text: Path) -> None:
    with pytest.raises(ConfigError, match="needs --vocab-size 257 at least, got 256"):
        load(text, vocab_size=256)


def test_a_cache_that_cannot_be_written_is_told_of(text: Path, cache: Path) -> None:
    cache.write_text("in the way")
    with pytest.raises(DataError, match=r"cannot be written: .*; set XDG_CACHE_HOME"):
        load(text)
