"""Corpora: what is read, in which order, and a clear error for everything that is not a corpus."""

import hashlib
import os
import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from psdp.config import DataConfig
from psdp.data import corpus as corpus_module
from psdp.data.corpus import Corpus, load_corpus
from psdp.data.tokenizer import ByteTokenizer, CharTokenizer, IdTokenizer
from psdp.errors import ConfigError, DataError


def load(*paths: Path, **settings: Any) -> Corpus:
    return load_corpus(DataConfig(corpus=tuple(map(str, paths)), **settings))


def text_of(corpus: Corpus) -> str:
    return corpus.tokenizer.decode(np.concatenate([corpus.train, corpus.val]))


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
    assert corpus.train.tobytes() + corpus.val.tobytes() == raw
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
    assert corpus.train.dtype == tokens.dtype
    assert corpus.train.tolist() + corpus.val.tolist() == list(range(200))
    assert not corpus.train.flags.owndata
    assert corpus.sha256 == hashlib.sha256(tokens.tobytes()).hexdigest()
    assert corpus.tokenizer == ByteTokenizer()


def test_a_bin_is_little_endian_uint16_and_several_are_joined(tmp_path: Path) -> None:
    a, b = tmp_path / "train.bin", tmp_path / "val.bin"
    np.array([50256, 1, 2], "<u2").tofile(a)
    np.array([3, 4], "<u2").tofile(b)
    alone = load(a, vocab_size=50257, val_fraction=0.0)
    assert alone.train.tolist() == [50256, 1, 2]
    assert alone.tokenizer == IdTokenizer(50257)
    joined = load(a, b, vocab_size=50257, val_fraction=0.0)
    assert joined.train.tolist() == [50256, 1, 2, 3, 4]
    assert joined.sha256 == hashlib.sha256(a.read_bytes() + b.read_bytes()).hexdigest()
    assert joined.sources == (str(a), str(b))


@pytest.mark.parametrize("at", [0, 9, 10, 24])
def test_a_token_beyond_the_vocabulary_is_found_in_any_chunk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at: int
) -> None:
    monkeypatch.setattr(corpus_module, "_CHUNK", 10)
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


def test_two_npy_are_refused(tmp_path: Path) -> None:
    paths = [save(tmp_path / name, np.arange(3)) for name in ("a.npy", "b.npy")]
    with pytest.raises(DataError, match=r"one \.npy, or \.bin files, got .*a\.npy, .*b\.npy"):
        load(*paths)


def test_text_and_tokens_do_not_mix(write: Write, tmp_path: Path) -> None:
    tokens = save(tmp_path / "a.npy", np.arange(3))
    with pytest.raises(DataError, match=r"mixes text \(.*b\.txt\) and tokens \(.*a\.npy\)"):
        load(tokens, write("b.txt", "x"))


# What is no corpus


def test_a_missing_path_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"none\.txt does not exist"):
        load(tmp_path / "none.txt")
    (tmp_path / "dangling").symlink_to("none.txt")
    with pytest.raises(DataError, match="dangling does not exist"):
        load(tmp_path)


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
    monkeypatch.setattr(np, "memmap", refuse)
    monkeypatch.setattr(np.lib.format, "open_memmap", refuse)
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


@pytest.mark.parametrize(("name", "value"), [("clean", "basic"), ("tokenizer", "char")])
def test_text_settings_are_not_for_tokens(tmp_path: Path, name: str, value: str) -> None:
    path = save(tmp_path / "a.npy", np.arange(3))
    with pytest.raises(ConfigError, match=f"--{name} {value} is for text"):
        load(path, **{name: value})


def test_the_library_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(corpus_module.sysconfig, "get_path", lambda _: str(tmp_path))
    with pytest.raises(DataError, match="no source of its standard library in"):
        load_corpus(DataConfig())
