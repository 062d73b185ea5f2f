"""Folders of tokens with an account: the same bytes for the same tokens, and nothing but them."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from psdp.config import DataConfig
from psdp.data.corpus import Corpus, load_corpus
from psdp.data.subwords import SubwordTokenizer
from psdp.data.token_folder import ACCOUNT, TokenFolder, write_tokens
from psdp.data.tokenizer import ByteTokenizer, Tokenizer
from psdp.errors import ConfigError, DataError

SUBWORDS = SubwordTokenizer.trained(["to be or not to be"], 280)
ROWS = [np.arange(n, n + 40) for n in range(0, 200, 40)]


def make(folder: Path, tokenizer: Tokenizer = SUBWORDS, rows: Iterable[Any] = ROWS) -> Path:
    write_tokens(folder, tokenizer, rows, text_bytes=[200, 300], shard_tokens=70)
    return folder


def load(folder: Path, **settings: Any) -> Corpus:
    return load_corpus(DataConfig(corpus=(str(folder),), **settings))


def contents(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in folder.iterdir()}


@pytest.mark.parametrize("tokenizer", [SUBWORDS, ByteTokenizer()], ids=["subwords", "byte"])
def test_what_was_written_is_read(tmp_path: Path, tokenizer: Tokenizer) -> None:
    folder = TokenFolder.read(make(tmp_path / "a", tokenizer))
    assert folder.tokenizer == tokenizer
    assert list(folder.files.values()) == [70, 70, 60]
    assert folder.text_bytes == 500
    assert [token for shard in folder.map() for token in shard.tokens.tolist()] == [*range(200)]
    assert [*tmp_path.iterdir()] == [tmp_path / "a"]


def test_the_same_tokens_make_the_same_bytes_however_they_come(tmp_path: Path) -> None:
    first = contents(make(tmp_path / "a"))
    again = contents(make(tmp_path / "b", rows=[np.arange(200)]))
    assert first == again
    assert {"tokens-000000.npy", ACCOUNT, "tokenizer.json"} < first.keys()


def test_a_folder_that_holds_something_is_left_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "mine").write_text("x")
    with pytest.raises(DataError, match="is not empty; choose another"):
        make(tmp_path)
    assert contents(tmp_path) == {"mine": b"x"}


def test_no_tokens_make_no_folder(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no text to make tokens of"):
        make(tmp_path / "a", rows=[])
    assert not [*tmp_path.iterdir()]


def test_it_is_a_corpus_by_itself_whose_hash_is_not_computed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = make(tmp_path / "a")
    monkeypatch.setattr("psdp.data.token_files.TokenFiles.check", None)
    corpus = load(folder, val_fraction=0.25)
    assert (corpus.train.size, corpus.val.size) == (150, 50)
    assert corpus.tokenizer == SUBWORDS
    assert corpus.sha256 == TokenFolder.read(folder).sha256
    assert corpus.sources == tuple(f"{folder}/tokens-{n:06d}.npy" for n in range(3))
    assert load(folder, vocab_size=300).vocab_size == 300


def test_a_validation_of_the_same_tokenizer_may_go_with_it(tmp_path: Path) -> None:
    folder, val = make(tmp_path / "a"), make(tmp_path / "b", rows=[np.arange(9)])
    assert load(folder, val_corpus=(str(val),)).val.size == 9
    other = make(tmp_path / "c", ByteTokenizer(), [np.arange(9)])
    with pytest.raises(DataError, match="were made with different tokenizers"):
        load(folder, val_corpus=(str(other),))
    (tmp_path / "text").write_text("x")
    with pytest.raises(DataError, match="goes with another one as its validation"):
        load(folder, val_corpus=(str(tmp_path / "text"),))
    with pytest.raises(DataError, match="which is a whole corpus"):
        load_corpus(DataConfig(corpus=(str(folder), str(val))))


def test_another_tokenizer_is_refused(tmp_path: Path) -> None:
    folder = make(tmp_path / "a")
    other = tmp_path / "other.json"
    other.write_text(SubwordTokenizer.trained(["another text"], 270).definition)
    for tokenizer in ("char", str(other)):
        message = f"--tokenizer {tokenizer} is not the one .* made with .subwords, 2"
        with pytest.raises(ConfigError, match=message):
            load(folder, tokenizer=tokenizer)
    assert load(folder, tokenizer=str(folder)).tokenizer == SUBWORDS
    assert load(folder, tokenizer="bpe").tokenizer == SUBWORDS


def test_another_vocabulary_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="--vocab-size 90 is smaller than that of the tokenizer"):
        load(make(tmp_path / "a"), vocab_size=90)
    with pytest.raises(ConfigError, match=r"--vocab-size 300 is not that of .* which is 256"):
        load(make(tmp_path / "b", ByteTokenizer()), vocab_size=300)


def test_settings_for_text_are_refused(tmp_path: Path) -> None:
    for name, flag in (("document_separator", "--document-separator"), ("text_field", "--text-f")):
        with pytest.raises(ConfigError, match=f"{flag}.* x is for text"):
            load(make(tmp_path / name), **{name: "x"})


def test_a_shard_that_is_cut_or_gone_is_refused(tmp_path: Path) -> None:
    folder = make(tmp_path / "a")
    shard = folder / "tokens-000001.npy"
    whole = shard.read_bytes()
    shard.write_bytes(whole[:-2])
    with pytest.raises(DataError, match=r"tokens-000001\.npy is damaged: it was cut"):
        load(folder)
    np.save(shard, np.arange(60, dtype=np.uint16))
    with pytest.raises(DataError, match=r"tokens-000001\.npy holds 60 tokens, .* says 70"):
        load(folder)
    shard.unlink()
    with pytest.raises(DataError, match=r"tokens-000001\.npy does not exist"):
        load(folder)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format": 2}, "has format 2, of which only 1 is known"),
        ({"sha256": "0" * 64}, "was edited or damaged"),
        ({"shards": []}, "was edited or damaged"),
        ({"shards": 3}, "is no account of tokens"),
        ({"tokenizer": {"kind": "byte"}}, "was edited or damaged"),
    ],
)
def test_an_account_that_makes_no_sense_is_refused(
    tmp_path: Path, change: dict[str, Any], message: str
) -> None:
    path = make(tmp_path / "a") / ACCOUNT
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(DataError, match=rf"tokens\.json {message}"):
        load(tmp_path / "a")


def test_another_tokenizer_beside_it_is_refused(tmp_path: Path) -> None:
    folder = make(tmp_path / "a")
    other = SubwordTokenizer.trained(["another text"], 270).definition
    (folder / "tokenizer.json").write_text(other)
    with pytest.raises(DataError, match=r"tokenizer\.json is not the one"):
        load(folder)


def test_a_shard_that_is_no_file_is_not_waited_for(tmp_path: Path) -> None:
    folder = make(tmp_path / "a")
    (folder / "tokens-000001.npy").unlink()
    os.mkfifo(folder / "tokens-000001.npy")
    with pytest.raises(DataError, match=r"tokens-000001\.npy is not a regular file"):
        load(folder)


def test_an_account_that_is_no_json_is_refused(tmp_path: Path) -> None:
    folder = make(tmp_path / "a")
    for text in ("", "null", "[" * 100_000):
        (folder / ACCOUNT).write_text(text)
        with pytest.raises(
            DataError, match=r"tokens\.json is no account .*; make the folder again"
        ):
            load(folder)
