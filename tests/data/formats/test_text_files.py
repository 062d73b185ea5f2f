"""Text in files: what is text, and what is told of a file that is none."""

import bz2
import lzma
import pickle
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from psdp.data.formats import text as module
from psdp.data.formats.text import NotText, pieces, text_of

CHINESE = "天地玄黃，宇宙洪荒。日月盈昃，辰宿列張。\n" * 9
ENGLISH = "In the beginning the Universe was created.\n" * 9


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "a.txt"


def refused(file: Path, raw: bytes) -> str:
    file.write_bytes(raw)
    with pytest.raises(NotText) as error:
        text_of(file, file.read_bytes())
    assert "\n" not in str(error.value)
    return str(error.value)


def test_a_byte_order_mark_is_no_character(file: Path) -> None:
    file.write_text(CHINESE, encoding="utf-8-sig")
    assert text_of(file, file.read_bytes()).decode() == CHINESE


@pytest.mark.parametrize("encoding", ["utf-16-le", "utf-16-be", "utf-32-le", "utf-32-be"])
@pytest.mark.parametrize("mark", ["", "\ufeff"])
def test_other_widths_are_told_of_with_and_without_a_mark(
    file: Path, encoding: str, mark: str
) -> None:
    name = encoding.upper().replace("-LE", "LE").replace("-BE", "BE")
    said = refused(file, (mark + ENGLISH).encode(encoding))
    assert f"a.txt is {name}, not UTF-8; convert it (iconv -f {name} -t UTF-8)" in said


@pytest.mark.parametrize("encoding", ["latin-1", "gb18030", "utf-16-le", "koi8-r"])
def test_another_encoding_is_told_of_with_its_first_byte(file: Path, encoding: str) -> None:
    texts = {"latin-1": "café\n" * 99, "koi8-r": "параметр сервер\n" * 99}
    said = refused(file, texts.get(encoding, CHINESE).encode(encoding))
    assert "a.txt is not UTF-8: byte 0x" in said
    assert "iconv -t UTF-8" in said
    assert "byte 0xe9 at offset 3" in refused(file, b"caf\xe9")
    assert "byte 0xe9 at offset 0" in refused(file, b"\xe9")


@pytest.mark.parametrize(
    ("raw", "what"),
    [
        (bz2.compress(ENGLISH.encode()), "compressed by bzip2"),
        (lzma.compress(ENGLISH.encode()), "compressed by xz"),
        (pickle.dumps({"stoi": {"a": 200}, "x": b"\xff"}), "a pickle"),
        (b"%PDF-1.7\n%\xe2\xe3\xcf\xd3", "a PDF"),
        (b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR", "an image"),
        (b"x" * 257 + b"ustar" + b"\0" * 250, "a tar archive"),
        (bytes(500), "full of NUL bytes"),
        (np.random.default_rng(0).bytes(5000), "binary"),
    ],
)
def test_what_is_no_text_at_all_is_named(file: Path, raw: bytes, what: str) -> None:
    said = refused(file, raw)
    assert what in said
    assert "iconv" not in said
    assert "take it out of the corpus" in said


def test_a_few_nuls_are_text(file: Path) -> None:
    file.write_bytes(ENGLISH.encode() + b"\0")
    assert text_of(file, file.read_bytes()).endswith(b"\0")


@given(st.text(max_size=60), st.integers(4, 9))
def test_pieces_join_to_the_text_and_keep_characters_whole(text: str, size: int) -> None:
    text = text.encode("utf-8", "ignore").decode()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "PIECE", size)
        found = list(pieces(text.encode()))
    assert "".join(piece.decode() for _, piece in found) == text
    assert [start for start, _ in found] == np.cumsum([0, *(len(p) for _, p in found)])[
        :-1
    ].tolist()


def test_the_offset_of_a_wrong_byte_is_that_in_the_file(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "PIECE", 8)
    assert "byte 0xe9 at offset 30" in refused(file, b"a" * 30 + b"\xe9" + b"b" * 20)
