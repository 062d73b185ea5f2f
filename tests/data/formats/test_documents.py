"""Texts that are packed, or records of a file: what is read, and what is refused in one line."""

from __future__ import annotations

import gzip
import json
import sys
import tracemalloc
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest
import zstandard

from psdp.data.formats import read_documents
from psdp.data.formats.fields import Fields
from psdp.data.formats.jsonl import texts_in_lines
from psdp.errors import ConfigError, DataError

CHINESE = "天地玄黃，宇宙洪荒。\n" * 50


def read(file: Path, field: str = "text") -> list[str]:
    return [document.decode() for document in read_documents(file, Fields(field))]


def refused(file: Path, error: type[Exception] = DataError, field: str = "text") -> str:
    with pytest.raises(error) as told:
        read(file, field)
    assert str(file) in str(told.value)
    assert "\n" not in str(told.value)
    return str(told.value)


def lines(*records: Any) -> bytes:
    return b"".join(json.dumps(record).encode() + b"\n" for record in records)


PACK = {
    ".gz": gzip.compress,
    ".zst": zstandard.ZstdCompressor().compress,
}


@pytest.mark.parametrize("packing", PACK)
def test_what_is_compressed_is_read_under_any_name(tmp_path: Path, packing: str) -> None:
    raw = CHINESE.encode()
    for name in (f"a.txt{packing}", f"b{packing}", "c.txt", f"D.TXT{packing.upper()}"):
        (tmp_path / name).write_bytes(PACK[packing](raw))
        assert read(tmp_path / name) == [CHINESE]
    # As pigz and zstdmt leave it.
    (tmp_path / "parts").write_bytes(PACK[packing](raw[:500]) + PACK[packing](raw[500:]))
    assert read(tmp_path / "parts") == [CHINESE]


def test_of_lines_there_is_one_in_hand(tmp_path: Path) -> None:
    raw = lines(*({"text": f"worker {n}"} for n in range(9999)))
    tracemalloc.start()
    try:
        count = sum(1 for _ in texts_in_lines(tmp_path / "a.jsonl", raw, Fields("text")))
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert count == 9999
    assert peak < len(raw) / 4


@pytest.mark.parametrize("packing", PACK)
def test_records_may_be_compressed(tmp_path: Path, packing: str) -> None:
    file = tmp_path / f"a.jsonl{packing}"
    file.write_bytes(PACK[packing](lines({"text": "one"}, {"text": "two"})))
    assert read(file) == ["one", "two"]


@pytest.mark.parametrize("packing", PACK)
def test_what_is_cut_or_damaged_is_refused(tmp_path: Path, packing: str) -> None:
    file, whole = tmp_path / f"a{packing}", PACK[packing](CHINESE.encode())
    for size in range(5, len(whole), 7):
        file.write_bytes(whole[:size])
        assert "is cut off" in refused(file)
    damaged = bytearray(whole)
    damaged[len(whole) // 2] ^= 255
    file.write_bytes(damaged)
    refused(file)


def test_what_is_inside_must_be_text_too(tmp_path: Path) -> None:
    (tmp_path / "a.tar.gz").write_bytes(gzip.compress(b"x" * 257 + b"ustar" + bytes(600)))
    assert "a tar archive" in refused(tmp_path / "a.tar.gz")


def test_each_line_is_a_document(tmp_path: Path) -> None:
    file = tmp_path / "a.jsonl"
    file.write_bytes(
        b"\xef\xbb\xbf" + lines({"text": "a\nb"}, {"id": 1, "text": CHINESE}) + b"\r\n"
    )
    assert read(file) == ["a\nb", CHINESE]
    file.rename(tmp_path / "b.ndjson")
    assert read(tmp_path / "b.ndjson") == ["a\nb", CHINESE]


@pytest.mark.parametrize("name", ["a.jsonl", "a.parquet"])
def test_a_prompt_goes_before_the_text(tmp_path: Path, name: str) -> None:
    file, fields = tmp_path / name, Fields("completion", "prompt", "=>", end="\n")
    records = [{"prompt": "2+2", "completion": "4"}, {"prompt": "", "completion": "= >"}]

    def write(records: list[dict[str, str]]) -> None:
        if name.endswith("jsonl"):
            file.write_bytes(lines(*records))
        else:
            pyarrow.parquet.write_table(pyarrow.Table.from_pylist(records), file)

    write(records)
    assert [*read_documents(file, fields)] == [b"2+2=>4", b"=>= >"]
    with pytest.raises(DataError, match=r"no '?.*'asked'.*name it with --prompt-field"):
        [*read_documents(file, Fields("completion", "asked", "=>"))]
    write([*records, {"prompt": "a=>b", "completion": "x"}])
    with pytest.raises(DataError, match=r"(line|row) 3: 'prompt' holds what is to end it"):
        [*read_documents(file, fields)]
    write([*records, {"prompt": "a", "completion": "x\ny"}])
    with pytest.raises(DataError, match=r"(line|row) 3 holds what is to end it, --document-sep"):
        [*read_documents(file, fields)]


def test_another_field_may_be_the_text(tmp_path: Path) -> None:
    file = tmp_path / "a.jsonl"
    file.write_bytes(lines({"body": "x", "text": 3}))
    assert read(file, "body") == ["x"]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (
            b'{"body": "x", "id": 1}',
            "line 2 has no 'text', but 'body', 'id'; name it with --text-f",
        ),
        (b"{}", "line 2 has no 'text', but nothing"),
        (b'{"text": 3}', "line 2: expected text in 'text', got a number"),
        (b'{"text": null}', "line 2: expected text in 'text', got null"),
        (b'["text"]', "line 2: expected an object with 'text', got a list"),
        (b'{"text": "x"', "line 2 is not JSON: "),
        (b"[" * 99999, "line 2 is not JSON"),
        (b'{"text": "\\ud800"}', "line 2: '\\ud800' in 'text' is half a character"),
    ],
)
def test_a_line_without_text_is_refused(tmp_path: Path, line: bytes, message: str) -> None:
    file = tmp_path / "a.jsonl"
    file.write_bytes(lines({"text": "fine"}) + line + b"\n")
    assert message in refused(file)


def table(file: Path, **columns: Any) -> Path:
    pyarrow.parquet.write_table(pyarrow.table(columns), file)
    return file


def test_each_row_of_parquet_is_a_document(tmp_path: Path) -> None:
    texts = ["one", CHINESE, "", None]
    for name in ("a.parquet", "b"):
        assert read(table(tmp_path / name, text=texts, id=[1, 2, 3, 4])) == ["one", CHINESE, ""]
    large = pyarrow.array(texts, pyarrow.large_string())
    assert read(table(tmp_path / "c.parquet", body=large), "body") == ["one", CHINESE, ""]
    few = pyarrow.array(texts).dictionary_encode()
    assert read(table(tmp_path / "d.parquet", text=few)) == ["one", CHINESE, ""]


def test_parquet_without_text_is_refused(tmp_path: Path) -> None:
    file = table(tmp_path / "a.parquet", body=["x"], id=[1])
    assert "has no column 'text', but 'body', 'id'; name it with --text-field" in refused(file)
    assert "expected text in the column 'id', got int64" in refused(file, field="id")


def test_damaged_parquet_is_refused(tmp_path: Path) -> None:
    file = table(tmp_path / "a.parquet", text=["x" * 1000])
    whole = file.read_bytes()
    for size in (0, 3, 4, 100, len(whole) - 1):
        file.write_bytes(whole[:size])
        assert "damaged" in refused(file)


@pytest.mark.parametrize(
    ("name", "raw", "library"),
    [("a.zst", PACK[".zst"](b"x"), "zstandard"), ("a.parquet", b"PAR1", "pyarrow")],
)
def test_a_library_that_is_missing_is_named_with_what_installs_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, raw: bytes, library: str
) -> None:
    monkeypatch.setitem(sys.modules, library, None)
    (tmp_path / name).write_bytes(raw)
    said = refused(tmp_path / name, ConfigError)
    assert f"which needs {library}; pip install 'psdp[data]'" in said


def test_parquet_with_a_column_of_damaged_pages_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "a.parquet"
    pyarrow.parquet.write_table(pyarrow.table({"text": [CHINESE] * 99}), file)
    raw = bytearray(file.read_bytes())
    raw[40:60] = bytes(20)
    file.write_bytes(raw)
    assert "is damaged" in refused(file)
    assert "permissions" not in refused(file)


def test_parquet_with_two_columns_of_one_name_is_refused(tmp_path: Path) -> None:
    texts = [pyarrow.array(["one"]), pyarrow.array(["two"])]
    pyarrow.parquet.write_table(pyarrow.table(texts, names=["text"] * 2), tmp_path / "a.parquet")
    assert "several columns 'text'" in refused(tmp_path / "a.parquet")


@pytest.mark.parametrize("kind", ["string", "large_string", "string_view"])
def test_any_text_of_parquet_is_read(tmp_path: Path, kind: str) -> None:
    texts = pyarrow.array(["one", CHINESE], getattr(pyarrow, kind)())
    pyarrow.parquet.write_table(pyarrow.table({"text": texts}), tmp_path / "a.parquet")
    assert read(tmp_path / "a.parquet") == ["one", CHINESE]


def test_zstd_may_begin_with_a_frame_that_holds_nothing(tmp_path: Path) -> None:
    # As of pzstd.
    frame = b"\x50\x2a\x4d\x18" + (4).to_bytes(4, "little") + b"size"
    (tmp_path / "a.zst").write_bytes(frame + PACK[".zst"](CHINESE.encode()))
    assert read(tmp_path / "a.zst") == [CHINESE]


@pytest.mark.parametrize("packing", PACK)
def test_what_is_packed_twice_or_holds_tokens_is_named(tmp_path: Path, packing: str) -> None:
    pack = PACK[packing]
    (tmp_path / "a").write_bytes(pack(pack(CHINESE.encode())))
    assert "is compressed by" in refused(tmp_path / "a")
    (tmp_path / f"a.bin{packing}").write_bytes(pack(bytes(range(100)) * 9))
    assert "is tokens, and compressed; unpack it" in refused(tmp_path / f"a.bin{packing}")
