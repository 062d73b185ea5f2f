"""Corpora: what is read, in which order, and a clear error for everything that is not a corpus."""

import bz2
import gzip
import hashlib
import os
import socket
import time
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from psdp.config import DataConfig
from psdp.data import sums as sums_module
from psdp.data import texts as texts_module
from psdp.data import tokens as tokens_module
from psdp.data.corpus import Corpus, Listener, load_corpus
from psdp.data.formats import text as text_module
from psdp.data.tokenizer import ByteTokenizer, CharTokenizer, IdTokenizer
from psdp.data.tokens import Tokens
from psdp.errors import ConfigError, DataError


def load(*paths: Path, **settings: Any) -> Corpus:
    return load_corpus(DataConfig(corpus=tuple(map(str, paths)), **settings))


def row(*parts: Tokens) -> list[int]:
    """All tokens of these, one after the other."""
    rows = [np.empty(part.size, np.int64) for part in parts]
    for part, into in zip(parts, rows, strict=True):
        part.read(0, into)
    return [token for into in rows for token in into.tolist()]


def text_of(corpus: Corpus) -> str:
    return corpus.tokenizer.decode(row(corpus.train, corpus.val))


@pytest.fixture
def write(tmp_path: Path) -> Callable[[str, str | bytes], Path]:
    def write(name: str, content: str | bytes) -> Path:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        return path

    return write


Write = Callable[[str, str | bytes], Path]


# Text


@pytest.mark.parametrize("tokenizer", ["byte", "char"])
def test_the_standard_library_loads_in_two_seconds(tokenizer: str) -> None:
    began = time.perf_counter()
    corpus = load_corpus(DataConfig(tokenizer=tokenizer))
    assert time.perf_counter() - began < 2
    assert corpus.train.size + corpus.val.size > 5_000_000
    assert "argparse.py" in corpus.sources
    assert list(corpus.sources) == sorted(corpus.sources)
    folders = {folder for source in corpus.sources for folder in source.split("/")[:-1]}
    assert not folders & {"test", "tests", "idle_test", "site-packages", "__pycache__"}
    assert corpus.sha256 == load_corpus(DataConfig()).sha256
    assert corpus.description.startswith("Python 3.")


def test_one_file_is_its_bytes_and_its_checksum(write: Write) -> None:
    raw = "天地玄黃\r\n宇宙洪荒\n".encode()
    path = write("a.txt", raw)
    corpus = load(path, val_fraction=0.25)
    assert bytes(row(corpus.train, corpus.val)) == raw
    assert corpus.val.size == len(raw) // 4
    assert corpus.sha256 == hashlib.sha256(raw).hexdigest()
    assert corpus.sources == (str(path),)
    assert corpus.tokenizer == ByteTokenizer()
    assert corpus.vocab_size == 256


def test_characters_are_those_of_the_whole_corpus(write: Write) -> None:
    corpus = load(write("a.txt", "hello 天地"), tokenizer="char", val_fraction=0.5)
    assert corpus.tokenizer == CharTokenizer(" ehlo地天")
    assert text_of(corpus) == "hello 天地"


def test_paths_keep_their_order_and_folders_are_sorted_without_hidden_files(
    write: Write, tmp_path: Path
) -> None:
    write("z/b/c", "three")
    write("z/b.txt", "two")
    write("z/a", "one")
    write("z/empty", "")
    write("z/.hidden", b"\xff")
    write("z/.git/x", b"\xff")
    first = write("first", "zero")
    corpus = load(first, tmp_path / "z", first)
    assert text_of(corpus) == "zero\none\ntwo\nthree\n\nzero"
    names = [Path(source).name for source in corpus.sources]
    assert names == ["first", "a", "b.txt", "c", "empty", "first"]


def test_records_are_documents_as_files_are(write: Write, tmp_path: Path) -> None:
    write("c/a.jsonl", '{"text": "one"}\n{"text": "<p>two"}\n')
    write("c/b.txt.gz", gzip.compress(b"three"))
    corpus = load(tmp_path / "c", clean="html")
    assert text_of(corpus) == "one\ntwo\nthree".replace("two", "\ntwo")
    assert len(corpus.sources) == len(corpus.checks) == 2


def test_a_name_that_is_no_utf8_is_recorded_printably(tmp_path: Path) -> None:
    raw = os.fsencode(tmp_path) + b"/caf\xe9.txt"
    Path(os.fsdecode(raw)).write_text("hello")
    for path in (Path(os.fsdecode(raw)), tmp_path):
        assert load(path).sources == (f"{tmp_path}/caf\\xe9.txt",)
    corpus = load(Path(os.fsdecode(raw)))
    assert corpus.description.startswith(f"{tmp_path}/caf\\xe9.txt: 1 file, ")
    assert "".join((corpus.description, *corpus.sources)).encode("utf-8")


def test_a_name_of_tokens_that_is_no_utf8_is_recorded_printably(tmp_path: Path) -> None:
    path = Path(os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9.npy"))
    np.save(path, np.arange(100, dtype=np.uint8))
    corpus = load(path)
    assert corpus.sources == (f"{tmp_path}/caf\\xe9.npy",)
    assert corpus.description.startswith(f"{tmp_path}/caf\\xe9.npy, ")


def test_no_validation_split_when_its_fraction_is_zero(write: Write) -> None:
    corpus = load(write("a", "hello"), val_fraction=0.0)
    assert corpus.val.size == 0
    assert corpus.train.size == 5


def test_cleaning_goes_file_by_file(write: Write) -> None:
    corpus = load(write("a", "x<script>never closed"), write("b", "<b>y</b>"), clean="html")
    assert text_of(corpus) == "x\ny"


def test_ranks_with_different_text_have_different_checksums(write: Write) -> None:
    a, b = write("a", "abc"), write("b", "bcd")
    assert load(a, tokenizer="char").sha256 != load(b, tokenizer="char").sha256


# Tokens


def save(path: Path, tokens: Any) -> Path:
    np.save(path, tokens)
    return path


@pytest.mark.parametrize("dtype", ["u1", "<u2", ">u2", "i4", "i8", "u8"])
def test_an_npy_is_mapped_in_its_own_type(tmp_path: Path, dtype: str) -> None:
    tokens = np.arange(200).astype(dtype)
    corpus = load(save(tmp_path / "a.npy", tokens))
    (shard,) = corpus.train.shards
    assert shard.tokens.dtype == tokens.dtype
    assert not shard.tokens.flags.owndata
    assert row(corpus.train, corpus.val) == list(range(200))
    assert corpus.sha256 == hashlib.sha256(tokens.tobytes()).hexdigest()
    assert corpus.tokenizer == ByteTokenizer()


def test_a_bin_is_little_endian_uint16_and_several_are_one_row(tmp_path: Path) -> None:
    a, b = tmp_path / "train.bin", tmp_path / "val.bin"
    np.array([50256, 1, 2], "<u2").tofile(a)
    np.array([3, 4], "<u2").tofile(b)
    alone = load(a, vocab_size=50257, val_fraction=0.0)
    assert row(alone.train) == [50256, 1, 2]
    assert alone.tokenizer == IdTokenizer(50257)
    joined = load(a, b, vocab_size=50257, val_fraction=0.0)
    assert row(joined.train) == [50256, 1, 2, 3, 4]
    assert joined.sha256 == hashlib.sha256(a.read_bytes() + b.read_bytes()).hexdigest()
    assert joined.sources == (str(a), str(b))


@pytest.mark.parametrize("at", [0, 9, 10, 24])
def test_a_token_beyond_the_vocabulary_is_found_in_any_chunk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at: int
) -> None:
    monkeypatch.setattr(tokens_module, "CHUNK", 10)
    tokens = np.zeros(25, np.int64)
    tokens[at:] = 300
    path = save(tmp_path / "a.npy", tokens)
    message = rf"a\.npy: token 300 at position {at} .* 256 tokens .* give --vocab-size"
    with pytest.raises(DataError, match=message):
        load(path)
    assert load(path, vocab_size=301).vocab_size == 301
    tokens[at] = -1
    with pytest.raises(DataError, match=rf"token -1 at position {at} .* negative"):
        load(save(path, tokens), vocab_size=301)


def test_the_second_of_two_bins_is_checked_by_its_own_positions(tmp_path: Path) -> None:
    for name, tokens in (("a.bin", [1, 2, 3]), ("b.bin", [1, 256])):
        np.array(tokens, "<u2").tofile(tmp_path / name)
    with pytest.raises(DataError, match=r"b\.bin: token 256 at position 1 "):
        load(tmp_path / "a.bin", tmp_path / "b.bin")


@pytest.mark.parametrize(
    "array",
    [np.zeros((2, 2), int), np.zeros(3), np.zeros(3, bool), np.array(1), np.array(["a"])],
)
def test_an_npy_that_is_no_row_of_integers_is_refused(tmp_path: Path, array: Any) -> None:
    with pytest.raises(DataError, match=r"a\.npy: expected a 1-D integer array, got "):
        load(save(tmp_path / "a.npy", array))


def test_a_pickle_is_never_opened(tmp_path: Path) -> None:
    trap = tmp_path / "trap"

    class Trap:
        def __reduce__(self) -> Any:
            return trap.mkdir, ()

    np.save(tmp_path / "a.npy", np.array([Trap()], object))
    with pytest.raises(DataError, match=r"a\.npy is damaged or no \.npy of plain numbers"):
        load(tmp_path / "a.npy")
    assert not trap.exists()


def test_a_damaged_npy_is_refused_wherever_it_is_cut(tmp_path: Path) -> None:
    path = save(tmp_path / "a.npy", np.arange(100, dtype=np.uint8))
    whole = path.read_bytes()
    for size in [*range(0, 128, 3), len(whole) - 1]:
        path.write_bytes(whole[:size])
        with pytest.raises(DataError, match=r"a\.npy is damaged"):
            load(path)


def test_an_npz_under_another_name_is_refused(tmp_path: Path) -> None:
    with (tmp_path / "a.npy").open("wb") as file:
        np.savez(file, tokens=np.arange(3))
    with pytest.raises(DataError, match=r"a\.npy is damaged or no \.npy"):
        load(tmp_path / "a.npy")


def test_a_bin_of_odd_size_is_refused(write: Write) -> None:
    with pytest.raises(DataError, match=r"a\.bin has 3 bytes, .* uint16"):
        load(write("a.bin", b"abc"))


def test_text_and_tokens_do_not_mix(write: Write, tmp_path: Path) -> None:
    tokens = save(tmp_path / "a.npy", np.arange(3))
    with pytest.raises(DataError, match=r"mixes text \(.*b\.txt\) and tokens \(.*a\.npy\)"):
        load(tokens, write("b.txt", "x"))


# What is no corpus


def test_a_missing_path_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"none\.txt does not exist"):
        load(tmp_path / "none.txt")


@pytest.mark.parametrize("suffix", ["txt", "npy", "bin"])
def test_a_fifo_a_socket_and_a_device_are_refused_without_blocking(
    tmp_path: Path, suffix: str
) -> None:
    fifo = tmp_path / "fifo" / f"a.{suffix}"
    fifo.parent.mkdir()
    os.mkfifo(fifo)
    for path in (fifo, fifo.parent, Path("/dev/zero")):
        with pytest.raises(DataError, match="is not a regular file"):
            load(path)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / f"s.{suffix}"))
        with pytest.raises(DataError, match="is not a regular file"):
            load(tmp_path / f"s.{suffix}")


@pytest.mark.parametrize("name", ["a.txt", "a.npy", "a.bin"])
def test_a_file_without_permission_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    # Root reads everything, so the refusal is the file system's in name only.
    path = tmp_path / name
    np.save(path, np.arange(9)) if name == "a.npy" else path.write_bytes(b"abcdefgh")

    def refuse(*_: Any, **__: Any) -> Any:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(Path, "read_bytes", refuse)
    monkeypatch.setattr(Path, "open", refuse)
    with pytest.raises(DataError, match=rf"{name} cannot be read: Permission denied"):
        load(path)


def test_a_folder_without_permission_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(path: Any) -> Any:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(DataError, match="cannot be read: Permission denied"):
        load(tmp_path)


@pytest.mark.parametrize("name", ["a.txt", "a.bin", "folder/a"])
def test_an_empty_file_is_refused(write: Write, name: str) -> None:
    path = write(name, b"")
    with pytest.raises(DataError, match="is empty"):
        load(path if path.suffix else path.parent)


def test_an_empty_npy_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"a\.npy"):
        load(save(tmp_path / "a.npy", np.zeros(0, np.uint8)))


def test_an_empty_folder_is_refused(write: Write, tmp_path: Path) -> None:
    write(".hidden", "x")
    with pytest.raises(DataError, match="holds no files"):
        load(tmp_path)


def test_nothing_left_after_cleaning_is_refused(write: Write) -> None:
    with pytest.raises(DataError, match="no text is left after --clean html"):
        load(write("a.html", "<p><!-- x --></p>"), clean="html")


def test_a_file_that_is_not_utf8_is_named_with_the_offset(write: Write, tmp_path: Path) -> None:
    write("c/a", "fine")
    write("c/b", b"abc\xe9def")
    with pytest.raises(DataError, match=r"c/b is not UTF-8: byte 0xe9 at offset 3"):
        load(tmp_path / "c")


# Settings that contradict the corpus


def test_a_vocabulary_size_is_not_for_text(write: Write) -> None:
    with pytest.raises(ConfigError, match="--vocab-size 300 is for tokenised"):
        load(write("a", "text"), vocab_size=300)


@pytest.mark.parametrize(
    ("name", "value"), [("clean", "basic"), ("tokenizer", "char"), ("text_field", "body")]
)
def test_text_settings_are_not_for_tokens(tmp_path: Path, name: str, value: str) -> None:
    path = save(tmp_path / "a.npy", np.arange(3))
    with pytest.raises(ConfigError, match=f"--{name.replace('_', '-')} {value} is for text"):
        load(path, **{name: value})


def test_the_library_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(texts_module.sysconfig, "get_path", lambda _: str(tmp_path))
    with pytest.raises(DataError, match="no source of its standard library in"):
        load_corpus(DataConfig())


# A validation of its own


def test_a_validation_file_of_its_own_is_not_trained_on(write: Write) -> None:
    train, val = write("a", "hello"), write("b", "world!")
    corpus = load(train, val_corpus=(str(val),), tokenizer="char")
    assert corpus.tokenizer == CharTokenizer("!dehlorw")
    assert corpus.tokenizer.decode(row(corpus.train)) == "hello"
    assert corpus.tokenizer.decode(row(corpus.val)) == "world!"
    assert corpus.sources == (str(train), str(val))
    assert f"validation {val}: 1 file" in corpus.description
    assert len({corpus.sha256, load(train).sha256, load(val, val_corpus=(str(train),)).sha256}) == 3


def test_a_validation_of_another_kind_is_refused(write: Write, tmp_path: Path) -> None:
    val = save(tmp_path / "val.npy", np.arange(3))
    with pytest.raises(DataError, match=r"mixes text \(.*a\) and tokens \(.*val\.npy\)"):
        load(write("a", "x"), val_corpus=(str(val),))
    with pytest.raises(DataError, match=r"mixes text \(stdlib\) and tokens"):
        load_corpus(DataConfig(val_corpus=(str(val),)))


@pytest.fixture
def nanogpt(write: Write, tmp_path: Path) -> Path:
    write("data/input.txt", "text")
    write("data/prepare.py", "import pickle")
    write("data/meta.pkl", b"\x80\x04}\x94.")
    (np.arange(100) % 65).astype("<u2").tofile(tmp_path / "data" / "train.bin")
    np.arange(20).astype("<u2").tofile(tmp_path / "data" / "val.bin")
    return tmp_path / "data"


def test_a_data_folder_of_nanogpt_has_both_splits(nanogpt: Path) -> None:
    corpus = load(nanogpt, vocab_size=65)
    assert row(corpus.train) == [n % 65 for n in range(100)]
    assert row(corpus.val) == list(range(20))
    assert corpus.description.startswith(f"{nanogpt}/train.bin, validation {nanogpt}/val.bin, ")
    assert corpus.description.endswith(
        f"(left out: {nanogpt}/input.txt, {nanogpt}/meta.pkl, {nanogpt}/prepare.py)"
    )
    assert load(nanogpt, vocab_size=65, val_fraction=0.0).val.size == 0


def test_its_pickle_is_not_opened_and_what_that_means_is_told(nanogpt: Path) -> None:
    with pytest.raises(ConfigError, match=r"meta\.pkl .* is a pickle, .* 64, so at least 65\)"):
        load(nanogpt)


# Any number of shards


def test_shards_are_never_joined_and_are_known_by_the_hash_of_them_joined(tmp_path: Path) -> None:
    tokens = np.random.default_rng(0).integers(0, 250, 1000).astype("<u2")
    for n, part in enumerate(np.split(tokens, [300, 700])):
        part.tofile(tmp_path / f"{n}.bin")
    whole = save(tmp_path / "whole.npy", tokens)
    shards = [tmp_path / f"{n}.bin" for n in range(3)]
    corpus = load(*shards)
    assert [shard.tokens.size for shard in corpus.train.shards] == [300, 400, 200]
    assert row(corpus.train, corpus.val) == tokens.tolist()
    assert corpus.sha256 == load(whole).sha256


def test_how_far_it_is_read_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sums_module, "PIECE", 40)
    paths = [save(tmp_path / name, np.zeros(60, np.uint8)) for name in ("a.npy", "b.npy")]
    told: list[tuple[int, int]] = []
    listener = Listener()
    listener.read = lambda *of: told.append(of)  # type: ignore[method-assign]
    load_corpus(DataConfig(corpus=tuple(map(str, paths))), listener)
    assert told == [(40, 120), (60, 120), (100, 120), (120, 120)]


# What is not text


def test_all_files_that_hold_no_text_are_named(write: Write, tmp_path: Path) -> None:
    write("c/a.txt", "fine")
    for n in range(7):
        write(f"c/{n}.bz2", bz2.compress(b"text"))
    message = (
        r"7 of 8 files hold no text in UTF-8: .*/0\.bz2 \(compressed by bzip2\).* and 2 more; "
    )
    with pytest.raises(DataError, match=message):
        load(tmp_path / "c")


def test_characters_take_little_more_memory_than_their_tokens(
    write: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(text_module, "PIECE", 1 << 16)
    size = 4_000_000
    path = write("a", b"hello world\n" * (size // 12))
    tracemalloc.start()
    corpus = load(path, tokenizer="char")
    held, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert corpus.vocab_size == 9
    assert held < 1.3 * size
    assert peak < 3 * size


@pytest.mark.parametrize(
    ("names", "said"),
    [
        (("loop",), "is a link that leads back to itself; take it out"),
        (("x" * 300,), "File name too long; give another file"),
        (("stdlib", "a.txt"), "'stdlib' is a whole --corpus; name nothing beside it"),
        (("blank.txt",), "blank.txt: it holds only blanks; give files that hold text"),
        (("swapped.bin",), "is not in the vocabulary .*; it looks big-endian; write it again"),
    ],
)
def test_what_is_wrong_is_said_with_what_to_do(
    write: Write, monkeypatch: pytest.MonkeyPatch, names: tuple[str, ...], said: str
) -> None:
    folder = write("a.txt", "text").parent
    write("blank.txt", " \n")
    (folder / "loop").symlink_to("loop")
    np.arange(256, dtype=">u2").tofile(folder / "swapped.bin")
    monkeypatch.chdir(folder)
    with pytest.raises(DataError, match=said):
        load(*map(Path, names))
