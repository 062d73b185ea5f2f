"""Subwords: what any text becomes, and comes back from, and what is no tokenizer."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import tokenizers
from hypothesis import given
from hypothesis import strategies as st

from psdp.data.subwords import DEFINITION, END_OF_TEXT, SubwordTokenizer, tokenizer_of
from psdp.data.tokenizer import ByteTokenizer
from psdp.errors import ConfigError, DataError

TEXTS = ["the parameter server pulls the weights\n" * 50, "天地玄黃，宇宙洪荒。" * 20]
TOKENIZER = SubwordTokenizer.trained(TEXTS, 300)


def library_alone() -> tokenizers.Tokenizer:
    """The same as the library makes it."""
    alone = tokenizers.Tokenizer(tokenizers.models.BPE())
    alone.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    alone.decoder = tokenizers.decoders.ByteLevel()
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=300,
        special_tokens=[END_OF_TEXT],
        initial_alphabet=tokenizers.pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    alone.train_from_iterator(TEXTS, trainer)
    return alone


@given(st.text())
def test_any_text_comes_back(text: str) -> None:
    whole = text.encode("utf-8", "ignore").decode()
    assert TOKENIZER.decode(TOKENIZER.encode(whole)) == whole


@given(st.lists(st.integers(0, TOKENIZER.vocab_size - 1), max_size=30), st.integers(1, 4))
def test_pieces_of_a_stream_join_to_the_text(ids: list[int], each: int) -> None:
    stream = TOKENIZER.stream()
    for _ in range(2):  # it starts afresh
        pieces = [stream.feed(ids[n : n + each]) for n in range(0, len(ids), each)]
        assert "".join([*pieces, stream.finish()]) == TOKENIZER.decode(ids)


def test_no_piece_ends_within_a_character() -> None:
    stream = TOKENIZER.stream()
    pieces = [stream.feed([token]) for token in TOKENIZER.encode("😀 天 x")]
    assert "".join(pieces) == "😀 天 x"
    assert not any("\ufffd" in piece for piece in pieces)


def test_it_is_what_the_library_alone_makes() -> None:
    alone = library_alone()
    assert alone.to_str() == TOKENIZER.definition
    assert TOKENIZER.encode(TEXTS[0]).tolist() == alone.encode(TEXTS[0]).ids
    assert TOKENIZER.end_of_text == alone.token_to_id(END_OF_TEXT)
    assert TOKENIZER.vocab_size == 300


@given(st.text())
def test_it_knows_how_many_bytes_each_token_stands_for(text: str) -> None:
    whole = text.encode("utf-8", "ignore").decode()
    assert TOKENIZER.byte_counts()[TOKENIZER.encode(whole)].sum() == len(whole.encode())
    assert TOKENIZER.byte_counts()[TOKENIZER.end_of_text] == 0


def test_bytes_are_counted_of_tokens_that_are_spelled_as_text_too() -> None:
    """As those of SentencePiece, which stand for a blank before them, or for a single byte."""
    inner = tokenizers.Tokenizer(tokenizers.models.BPE(byte_fallback=True))
    inner.pre_tokenizer = tokenizers.pre_tokenizers.Metaspace()
    decoders = tokenizers.decoders
    parts = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    inner.decoder = decoders.Sequence([*parts, decoders.Strip(" ", 1, 0)])
    single = [f"<0x{byte:02X}>" for byte in range(256)]
    trainer = tokenizers.trainers.BpeTrainer(vocab_size=400, show_progress=False)
    inner.train_from_iterator(TEXTS, trainer)
    definition = json.loads(inner.to_str())
    vocabulary = definition["model"]["vocab"]
    vocabulary |= {name: len(vocabulary) + n for n, name in enumerate(single)}
    tokenizer = SubwordTokenizer(json.dumps(definition))
    for text in ("the weights pull", "the 狐 weights", "é the"):
        ids = tokenizer.encode(text)
        assert tokenizer.byte_counts()[ids].sum() == len(f" {text}".encode())


def test_half_a_character_is_refused() -> None:
    with pytest.raises(DataError, match="has no UTF-8 form"):
        TOKENIZER.encode("a\ud800")


def test_a_tokenizer_is_found_in_a_file_and_in_a_folder(tmp_path: Path) -> None:
    (tmp_path / DEFINITION).write_text(TOKENIZER.definition)
    assert SubwordTokenizer.at(tmp_path) == SubwordTokenizer.at(tmp_path / DEFINITION) == TOKENIZER


def test_the_two_files_of_gpt2_make_the_same_tokens(tmp_path: Path) -> None:
    model = json.loads(TOKENIZER.definition)["model"]
    (tmp_path / "vocab.json").write_text(json.dumps(model["vocab"]))
    lines = ["#version: 0.2", *(" ".join(pair) for pair in model["merges"])]
    (tmp_path / "merges.txt").write_text("\n".join(lines) + "\n")
    found = SubwordTokenizer.at(tmp_path)
    assert found.encode(TEXTS[0]).tolist() == TOKENIZER.encode(TEXTS[0]).tolist()
    assert found.end_of_text == TOKENIZER.end_of_text
    assert found.cuts_at_lines


@pytest.mark.parametrize(
    ("content", "message"),
    [(None, "does not exist"), ("{}", "no tokenizer of"), ("x", "no tokenizer of")],
)
def test_what_is_no_tokenizer_is_refused(tmp_path: Path, content: str | None, message: str) -> None:
    file = tmp_path / "tokenizer.json"
    if content is not None:
        file.write_text(content)
    with pytest.raises(DataError, match=f"--tokenizer {file}: .*{message}"):
        SubwordTokenizer.at(file)


def test_a_folder_without_a_tokenizer_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"holds no tokenizer\.json, and no vocab\.json and merges"):
        SubwordTokenizer.at(tmp_path)


def test_a_vocabulary_may_be_larger_and_not_smaller_than_the_tokenizers() -> None:
    padded = SubwordTokenizer(TOKENIZER.definition, 320)
    assert padded.vocab_size == 320
    assert padded.decode([319]) == ""
    with pytest.raises(ConfigError, match=r"--vocab-size 299 is smaller than .* has 300 tokens"):
        SubwordTokenizer(TOKENIZER.definition, 299)


def test_a_tokenizer_is_described_by_a_hash_and_its_file() -> None:
    told = json.loads(json.dumps(TOKENIZER.to_json()))
    files = TOKENIZER.files()
    assert tokenizer_of(told, files.__getitem__) == TOKENIZER
    assert tokenizer_of(ByteTokenizer().to_json(), files.__getitem__) == ByteTokenizer()
    other = SubwordTokenizer.trained(["another text"], 260)
    with pytest.raises(DataError, match=r"tokenizer\.json is not the one"):
        tokenizer_of(told, other.files().__getitem__)


def test_without_the_library_it_is_said_what_installs_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tokenizers", None)
    with pytest.raises(ConfigError, match=r"needs tokenizers; pip install 'psdp\[data\]'"):
        SubwordTokenizer(TOKENIZER.definition)


def test_only_what_splits_as_gpt2_does_is_cut_at_lines() -> None:
    assert TOKENIZER.cuts_at_lines
    for before in (None, {"type": "Whitespace"}, {"type": "ByteLevel", "add_prefix_space": True}):
        definition = json.loads(TOKENIZER.definition) | {"pre_tokenizer": before}
        if before is not None and before["type"] == "ByteLevel":
            before |= {"trim_offsets": True, "use_regex": True}
        assert not SubwordTokenizer(json.dumps(definition)).cuts_at_lines
