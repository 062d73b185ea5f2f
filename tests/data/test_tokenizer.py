"""Tokenizers: every text round-trips, streams equal decoding, and errors name the place."""

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from psdp.data.tokenizer import (
    ByteTokenizer,
    CharTokenizer,
    IdTokenizer,
    Tokenizer,
    tokenizer_from_json,
)
from psdp.errors import DataError

# Everything that UTF-8 can hold: no lone surrogates.
texts = st.text(st.characters(codec="utf-8"))
CHINESE = "参数服务器：天地玄黃,宇宙洪荒。𠮷"


@given(texts)
def test_bytes_round_trip_any_text(text: str) -> None:
    ids = ByteTokenizer().encode(text)
    assert ids.dtype == np.uint8
    assert ids.tolist() == list(text.encode())
    assert ByteTokenizer().decode(ids) == text


@given(texts.filter(bool))
def test_characters_round_trip_the_text_they_were_made_from(text: str) -> None:
    tokenizer = CharTokenizer.of_texts([text])
    ids = tokenizer.encode(text)
    assert tokenizer.characters == "".join(sorted(set(text)))
    assert tokenizer.vocab_size == len(set(text))
    assert [tokenizer.characters[i] for i in ids] == list(text)
    assert tokenizer.decode(ids) == text


def test_chinese_is_one_token_a_character() -> None:
    tokenizer = CharTokenizer.of_texts([CHINESE])
    assert tokenizer.encode(CHINESE).size == len(CHINESE)
    assert tokenizer.decode(tokenizer.encode(CHINESE[::-1])) == CHINESE[::-1]


def test_ids_take_the_smallest_type_that_holds_the_vocabulary() -> None:
    sizes = {256: np.uint8, 257: np.uint16, 65536: np.uint16, 65537: np.uint32}
    for size, dtype in sizes.items():
        assert IdTokenizer(size).encode("0").dtype == dtype
        assert CharTokenizer("".join(map(chr, range(size)))).encode("a").dtype == dtype


@given(st.lists(st.integers(0, 49_999)))
def test_ids_are_their_own_text(ids: list[int]) -> None:
    tokenizer = IdTokenizer(50_000)
    text = " ".join(map(str, ids))
    assert tokenizer.decode(ids) == text
    assert tokenizer.encode(text).tolist() == ids


def cut(ids: list[int], places: list[int]) -> list[list[int]]:
    ends = sorted(place % (len(ids) + 1) for place in places)
    return [ids[a:b] for a, b in zip([0, *ends], [*ends, len(ids)], strict=True)]


@given(st.lists(st.integers(0, 255)), st.lists(st.integers(0, 1000)))
@pytest.mark.parametrize(
    "tokenizer",
    [ByteTokenizer(), CharTokenizer("".join(map(chr, range(256)))), IdTokenizer(256)],
    ids=["byte", "char", "ids"],
)
def test_a_stream_joins_to_what_decode_says_wherever_it_is_cut(
    tokenizer: Tokenizer, ids: list[int], places: list[int]
) -> None:
    stream = tokenizer.stream()
    for _ in range(2):  # finish leaves it as new
        pieces = [stream.feed(piece) for piece in cut(ids, places)]
        assert "".join(pieces) + stream.finish() == tokenizer.decode(ids)


def test_a_byte_stream_holds_a_character_back_until_its_last_byte() -> None:
    stream = ByteTokenizer().stream()
    first, second, third = "天".encode()
    assert [stream.feed(byte) for byte in (ord("a"), first, second, third)] == ["a", "", "", "天"]


def test_a_byte_stream_that_ends_inside_a_character_says_so() -> None:
    stream = ByteTokenizer().stream()
    assert stream.feed(list("天".encode()[:2])) == ""
    assert stream.finish() == "\ufffd"
    assert stream.feed([97]) == "a"


@pytest.mark.parametrize(
    "tokenizer", [ByteTokenizer(), CharTokenizer.of_texts([CHINESE]), IdTokenizer(50257)]
)
def test_a_tokenizer_comes_back_equal_from_json(tokenizer: Tokenizer) -> None:
    again = tokenizer_from_json(json.loads(json.dumps(tokenizer.to_json())))
    assert again == tokenizer
    assert hash(again) == hash(tokenizer)
    assert type(again) is type(tokenizer)


@given(st.text(min_size=1))
def test_bytes_and_characters_know_how_many_bytes_they_are(text: str) -> None:
    whole = text.encode("utf-8", "ignore").decode() or "x"
    for tokenizer in (ByteTokenizer(), CharTokenizer.of_texts([whole])):
        assert tokenizer.byte_counts()[tokenizer.encode(whole)].sum() == len(whole.encode())
    assert IdTokenizer(9).byte_counts() is None


def test_different_tokenizers_differ() -> None:
    assert ByteTokenizer() != IdTokenizer(256)
    assert CharTokenizer("ab") != CharTokenizer("ac")


@pytest.mark.parametrize(
    "value",
    [
        None,
        [],
        {},
        {"kind": "bpe"},
        {"kind": "byte", "vocab_size": 255},
        {"kind": "char"},
        {"kind": "char", "characters": ""},
        {"kind": "char", "characters": "ba"},
        {"kind": "char", "characters": "aa"},
        {"kind": "char", "characters": ["a", "b"]},
        {"kind": "char", "characters": "b" * 1000},
        {"kind": "ids", "vocab_size": 0},
        {"kind": "ids", "vocab_size": True},
        {"kind": "ids", "vocab_size": "10"},
    ],
)
def test_malformed_json_is_refused(value: object) -> None:
    with pytest.raises(DataError, match="expected a tokenizer") as refusal:
        tokenizer_from_json(value)
    assert len(str(refusal.value)) < 300


def test_an_unknown_character_is_named_with_its_place() -> None:
    tokenizer = CharTokenizer.of_texts(["a", "bc"])
    with pytest.raises(DataError, match=r"'天' \(U\+5929\) at position 2 is not among the 3"):
        tokenizer.encode("ab天天")
    with pytest.raises(DataError, match=r"'`' \(U\+0060\) at position 0"):
        tokenizer.encode("`a")


def test_a_lone_surrogate_is_refused_by_bytes_and_characters() -> None:
    for tokenizer in (ByteTokenizer(), CharTokenizer("ab")):
        with pytest.raises(DataError, match=r"'\\udcff'.* at position 1"):
            tokenizer.encode("a\udcff")


@pytest.mark.parametrize("tokenizer", [ByteTokenizer(), IdTokenizer(256)])
@pytest.mark.parametrize("token", [-1, 256])
def test_a_token_outside_the_vocabulary_does_not_decode(tokenizer: Tokenizer, token: int) -> None:
    with pytest.raises(DataError, match=rf"token {token} at position 1 .* 256 tokens"):
        tokenizer.decode([0, token])


def test_text_for_ids_must_be_integers_of_the_vocabulary() -> None:
    with pytest.raises(DataError, match="got 'two' as word 2"):
        IdTokenizer(10).encode("1 two")
    with pytest.raises(DataError, match=r"got '²' as word 1"):
        IdTokenizer(10).encode("²")
    with pytest.raises(DataError, match=r"token 10 \(word 3\) .* 10 tokens \(0 to 9\)"):
        IdTokenizer(10).encode("1 2 10")


@pytest.mark.parametrize("digits", [20, 5000])
def test_an_id_of_any_length_is_one_that_the_vocabulary_lacks(digits: int) -> None:
    with pytest.raises(DataError, match=r"token 9.* \(word 2\) is not in the vocabulary of 50 t"):
        IdTokenizer(50).encode("7 " + "9" * digits)


def test_zeros_in_front_of_an_id_mean_nothing() -> None:
    assert IdTokenizer(50).encode(f"007 {'0' * 5000} {'0' * 5000}49").tolist() == [7, 0, 49]
