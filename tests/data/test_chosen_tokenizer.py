"""Tokenizers that ``--tokenizer`` describes itself, as a run has it that goes on with another's
characters."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from psdp.config import DataConfig
from psdp.data.corpus import Corpus, load_corpus
from psdp.data.token_folder import write_tokens
from psdp.data.tokenizer import ByteTokenizer, CharTokenizer
from psdp.errors import ConfigError, DataError

CHARACTERS = CharTokenizer(" abcdo")
DESCRIBED = json.dumps(CHARACTERS.to_json())


def load(path: Path, tokenizer: str = DESCRIBED) -> Corpus:
    return load_corpus(DataConfig(corpus=(str(path),), tokenizer=tokenizer, val_fraction=0))


def test_text_is_read_with_these_characters_whatever_it_has(tmp_path: Path) -> None:
    text = tmp_path / "text.txt"
    text.write_text("a cab")
    assert load(text).tokenizer == CHARACTERS
    text.write_text("a cab too")
    with pytest.raises(DataError, match="is not among the 6 characters"):
        load(text)


def test_tokens_are_of_these_characters(tmp_path: Path) -> None:
    np.save(tmp_path / "tokens.npy", np.array([0, 5, 3], np.uint8))
    assert load(tmp_path / "tokens.npy").tokenizer == CHARACTERS
    np.save(tmp_path / "tokens.npy", np.array([0, 6, 3], np.uint8))
    with pytest.raises(DataError, match="not in the vocabulary of 6 tokens"):
        load(tmp_path / "tokens.npy")


def test_a_folder_of_tokens_has_to_be_of_the_same(tmp_path: Path) -> None:
    rows = [np.array([0, 5, 3])]
    write_tokens(tmp_path / "same", CHARACTERS, rows, text_bytes=[3])
    assert load(tmp_path / "same").tokenizer == CHARACTERS
    write_tokens(tmp_path / "other", ByteTokenizer(), rows, text_bytes=[3])
    with pytest.raises(ConfigError, match="is not the one that the tokens in"):
        load(tmp_path / "other")


def test_what_describes_none_is_refused(tmp_path: Path) -> None:
    text = tmp_path / "text.txt"
    text.write_text("a cab")
    with pytest.raises(ConfigError, match="is no path, and not the JSON of a tokenizer"):
        load(text, tokenizer='{"kind": ')
    with pytest.raises(DataError, match="expected a tokenizer"):
        load(text, tokenizer='{"kind": "none"}')
