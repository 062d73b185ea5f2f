"""Documents to tokens: the same, however many are in hand at a time."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from psdp.data import tokenising
from psdp.data.subwords import SubwordTokenizer
from psdp.data.tokenising import cut_at_lines, separator_of, tokens_of
from psdp.data.tokenizer import ByteTokenizer, Tokenizer

SUBWORDS = SubwordTokenizer.trained(["to be\n\n or not\nto be.\n " * 9], 280)
TEXT = st.text(st.sampled_from("to be\n\n\r\t.'天\u3000\x85"), max_size=40)


@pytest.mark.parametrize("tokenizer", [SUBWORDS, ByteTokenizer()], ids=["subwords", "byte"])
@given(documents=st.lists(TEXT, max_size=6), piece=st.integers(1, 9), batch=st.integers(1, 30))
def test_where_a_text_is_cut_makes_no_difference(
    tokenizer: Tokenizer, documents: list[str], piece: int, batch: int
) -> None:
    between = separator_of(tokenizer, None)
    expected: list[int] = []
    for number, document in enumerate(documents):
        expected += (between.tolist() if number else []) + tokenizer.encode(document).tolist()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tokenising, "PIECE", piece)
        patch.setattr(tokenising, "BATCH", batch)
        rows = [*tokens_of(tokenizer, (one.encode() for one in documents), between)]
    assert [token for row in rows for token in row.tolist()] == expected


def test_between_documents_stands_the_end_of_a_text_or_what_is_said() -> None:
    assert separator_of(SUBWORDS, None).tolist() == [SUBWORDS.end_of_text]
    assert separator_of(SUBWORDS, "<|endoftext|>").tolist() == [SUBWORDS.end_of_text]
    assert SUBWORDS.decode(separator_of(SUBWORDS, "\n\n")) == "\n\n"
    assert separator_of(ByteTokenizer(), None).tolist() == [10]
    assert separator_of(ByteTokenizer(), "--").tolist() == [45, 45]


def test_long_texts_are_cut() -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tokenising, "PIECE", 100)
        rows = [*tokens_of(SUBWORDS, [b"a line\n" * 100], np.zeros(0, np.int64))]
    assert len(rows) > 5


def test_a_long_text_is_never_decoded_as_a_whole() -> None:
    text = "line by line 梯度 🦊\n".encode() * 20_000
    tracemalloc.start()
    try:
        rows = tokens_of(ByteTokenizer(), [text], np.zeros(0, np.int64))
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(tokenising, "PIECE", 1 << 10)
            patch.setattr(tokenising, "BATCH", 1 << 10)
            size = sum(row.size for row in rows)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert size == len(text)
    assert peak < len(text) / 4


def test_a_text_is_cut_between_two_lines_but_beside_no_other_blank() -> None:
    blanks = [chr(point) for point in range(0x110000) if chr(point).isspace()]
    assert len(blanks) > 20
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tokenising, "PIECE", 1)
        for blank in blanks:
            for text in (f"a{blank}\nb", f"a\n{blank}b"):
                assert [*cut_at_lines(text.encode())] == [text]
        for last, first in ("天天", ".п", "。「", "…é", "🦊é"):
            assert [*cut_at_lines(f"{last}\n{first}".encode())] == [f"{last}\n", first]


@given(st.lists(TEXT, min_size=1, max_size=6), st.integers(1, 9))
def test_subwords_are_learnt_the_same_wherever_a_text_is_cut(texts: list[str], piece: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tokenising, "PIECE", piece)
        pieces = [part for text in texts for part in cut_at_lines(text.encode())]
    whole, cut = (SubwordTokenizer.trained(some, 300) for some in (texts, pieces))
    assert cut.definition == whole.definition


def test_what_ends_a_prompt_has_the_same_tokens_everywhere() -> None:
    between, mark = separator_of(SUBWORDS, None), "\n\n"
    documents = [b"to be\n\n or not\n\nto be", b"to be"]
    rows = [*tokens_of(SUBWORDS, documents, between, mark)]
    parts = ["to be", mark, " or not\n\nto be", "<|endoftext|>", "to be"]
    assert [row.tolist() for row in rows] == [SUBWORDS.encode(part).tolist() for part in parts]
