"""Files to tokens: find what ``--corpus`` names, check it, tokenise it, split it.

The only module of data/ that touches the file system. Folders are walked in sorted order and
links to folders are not followed, so that every rank reads the same files in the same order.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import platform
import stat
import sysconfig
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from psdp.config import DataConfig
from psdp.data.clean import clean
from psdp.data.tokenizer import ByteTokenizer, CharTokenizer, IdTokenizer, Tokenizer
from psdp.errors import ConfigError, DataError
from psdp.params import Array

_TOKENISED = (".npy", ".bin")
_NOT_SOURCE = frozenset(
    {"test", "tests", "idle_test", "__pycache__", "site-packages", "dist-packages"}
)
# Tokens checked and bytes hashed at a time: a mapped corpus may be larger than the memory.
_CHUNK = 1 << 22
# NumPy parses the head of a .npy by ``ast``, in which threads of Python 3.11 meet (gh-106905).
_ONE_BY_ONE = threading.Lock()


@dataclass(frozen=True)
class Corpus:
    """Tokens, ready to be cut into windows.

    ``train`` and ``val`` (N,) are one array split in two, of uint8, uint16 or uint32, or a map of
    a file in the file's own type; ``val`` is empty with ``--val-fraction 0``. ``sha256`` is that of
    the text in UTF-8 after cleaning (so of the file itself, where it is one and not cleaned), or
    of the tokens as stored.
    """

    train: Array
    val: Array
    tokenizer: Tokenizer
    sha256: str
    sources: tuple[str, ...]
    description: str

    @property
    def vocab_size(self) -> int:
        return self.tokenizer.vocab_size


def load_corpus(config: DataConfig) -> Corpus:
    """Return the corpus that ``config`` names, tokenised and split.

    One .npy or .bin is mapped, not read; several .bin are joined in memory.

    Raises:
        ConfigError: a setting that is for text is given with tokens, or the reverse.
        DataError: a file is missing, unreadable, empty, damaged, not UTF-8, or holds a token
            outside the vocabulary.
    """
    if config.corpus == ("stdlib",):
        name = f"Python {platform.python_version()} standard library"
        return _from_text(config, *_standard_library(), name)
    files = [file for path in config.corpus for file in _files(Path(path))]
    tokenised = [file for file in files if file.suffix.lower() in _TOKENISED]
    if not tokenised:
        name = (
            _printable(config.corpus[0])
            if len(config.corpus) == 1
            else f"{len(config.corpus)} paths"
        )
        return _from_text(config, tuple(map(_printable, files)), _texts(config.corpus, files), name)
    if len(tokenised) < len(files):
        text = next(file for file in files if file not in tokenised)
        raise DataError(
            f"--corpus mixes text ({text}) and tokens ({tokenised[0]}); give one or the other"
        )
    return _from_tokens(config, tokenised)


def _printable(path: str | Path) -> str:
    """Return a path as text that can be printed and kept, whatever bytes its name has."""
    return os.fsencode(path).decode("utf-8", "backslashreplace")


def _from_text(config: DataConfig, sources: tuple[str, ...], texts: list[str], name: str) -> Corpus:
    if config.vocab_size is not None:
        raise ConfigError(
            f"--vocab-size {config.vocab_size} is for tokenised corpora (.npy, .bin), but "
            f"--corpus {' '.join(config.corpus)} is text, whose vocabulary --tokenizer "
            f"{config.tokenizer} makes; drop --vocab-size"
        )
    # File by file: a tag left open in one must not swallow the next.
    text = "\n".join(clean(text, config.clean) for text in texts)
    if not text.strip():
        raise DataError(f"{name}: no text is left after --clean {config.clean}")
    utf8 = text.encode("utf-8")
    tokenizer: Tokenizer
    if config.tokenizer == "char":
        tokenizer = CharTokenizer.of_text(text)
        tokens = tokenizer.encode(text)
    else:
        tokenizer = ByteTokenizer()
        tokens = np.frombuffer(utf8, np.uint8)
    files = f"{len(sources):,} file{'s' if len(sources) > 1 else ''}"
    about = f"{name}: {files}, {len(utf8) / 1e6:.1f} MB of text"
    return _split(config, tokens, tokenizer, hashlib.sha256(utf8).hexdigest(), sources, about)


def _from_tokens(config: DataConfig, files: list[Path]) -> Corpus:
    for flag, value, default in (
        ("--clean", config.clean, "none"),
        ("--tokenizer", config.tokenizer, "byte"),
    ):
        if value != default:
            raise ConfigError(
                f"{flag} {value} is for text, but {files[0]} is tokenised already; drop {flag}"
            )
    if len(files) > 1 and any(file.suffix.lower() == ".npy" for file in files):
        raise DataError(
            f"--corpus takes one .npy, or .bin files, got {', '.join(map(str, files))}; join them "
            "into one file"
        )
    tokenizer = ByteTokenizer() if config.vocab_size is None else IdTokenizer(config.vocab_size)
    arrays = [_map_npy(file) if file.suffix.lower() == ".npy" else _map_bin(file) for file in files]
    for file, array in zip(files, arrays, strict=True):
        _check_tokens(file, array, tokenizer.vocab_size)
    tokens = arrays[0] if len(arrays) == 1 else np.concatenate(arrays)
    digest = hashlib.sha256()
    for chunk in _chunks(tokens):
        digest.update(np.ascontiguousarray(chunk).data)
    sources = tuple(map(_printable, files))
    about = sources[0] if len(files) == 1 else f"{sources[0]} and {len(files) - 1} more"
    return _split(config, tokens, tokenizer, digest.hexdigest(), sources, about)


def _split(
    config: DataConfig,
    tokens: Array,
    tokenizer: Tokenizer,
    sha256: str,
    sources: tuple[str, ...],
    about: str,
) -> Corpus:
    cut = tokens.size - int(tokens.size * config.val_fraction)
    description = f"{about}, {tokens.size:,} tokens, vocabulary {tokenizer.vocab_size:,}"
    return Corpus(tokens[:cut], tokens[cut:], tokenizer, sha256, sources, description)


# Text ---------------------------------------------------------------------------------------------


def _texts(corpus: tuple[str, ...], files: list[Path]) -> list[str]:
    """Return the text of each file. An empty one is fine among others, as in Python packages."""
    texts = [_decoded(file, _read(file)) for file in files]
    if not any(texts):
        raise DataError(f"--corpus {' '.join(corpus)} is empty; give files that hold text")
    return texts


def _decoded(file: Path, raw: bytes) -> str:
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError as error:
        raise DataError(
            f"{file} is not UTF-8: byte 0x{raw[error.start]:02x} at offset {error.start} "
            f"({error.reason}); convert it (iconv -t UTF-8) or take it out of the corpus"
        ) from None


def _standard_library() -> tuple[tuple[str, ...], list[str]]:
    """Return the names and the texts of the standard library's source files, without its tests.

    A file in another encoding (legal in Python, rare in the library) is left out.
    """
    root = Path(sysconfig.get_path("stdlib"))
    texts = {}
    for file in _walk(root, lambda name: name not in _NOT_SOURCE):
        if file.suffix == ".py":
            with contextlib.suppress(UnicodeDecodeError):
                texts[file.relative_to(root).as_posix()] = _read(file).decode("utf-8")
    if not any(texts.values()):
        raise DataError(
            f"this Python has no source of its standard library in {root}; name text files or "
            "folders with --corpus"
        )
    return tuple(texts), list(texts.values())


# Tokens -------------------------------------------------------------------------------------------


def _map_npy(file: Path) -> Array:
    """Map a .npy. The format's own reader is used since np.load also opens zips and pickles."""
    try:
        with _ONE_BY_ONE:
            array: Array = np.lib.format.open_memmap(file, mode="r")
    except OSError as error:
        raise _unreadable(file, error) from None
    except Exception as error:
        # A header is parsed as a Python literal, so damage shows as almost any exception.
        raise DataError(
            f"{file} is damaged or no .npy of plain numbers ({error}); write a 1-D integer array "
            "with numpy.save"
        ) from None
    if array.ndim != 1 or array.dtype.kind not in "ui":
        raise DataError(
            f"{file}: expected a 1-D integer array, got {array.dtype} of shape {array.shape}"
        )
    if not array.size:
        raise DataError(f"{file} holds no tokens")
    return np.asarray(array)


def _map_bin(file: Path) -> Array:
    try:
        size = file.stat().st_size
        if not size:
            raise DataError(f"{file} is empty")
        if size % 2:
            raise DataError(
                f"{file} has {size} bytes, but a .bin is raw little-endian uint16, two bytes a "
                "token; the file is cut off or of another type (save that with numpy.save as .npy)"
            )
        return np.asarray(np.memmap(file, "<u2", mode="r"))
    except OSError as error:
        raise _unreadable(file, error) from None


def _check_tokens(file: Path, tokens: Array, vocab_size: int) -> None:
    bounds = np.iinfo(tokens.dtype)
    if bounds.min == 0 and bounds.max < vocab_size:
        return
    for index, chunk in enumerate(_chunks(tokens)):
        if chunk.max() < vocab_size and (bounds.min == 0 or chunk.min() >= 0):
            continue
        at = int(np.flatnonzero((chunk < 0) | (chunk >= vocab_size))[0])
        token = int(chunk[at])
        advice = (
            "negative tokens mean nothing; write the file again"
            if token < 0
            else "give --vocab-size the size of the vocabulary that the file was made with"
        )
        raise DataError(
            f"{file}: token {token} at position {index * _CHUNK + at} is not in the vocabulary of "
            f"{vocab_size} tokens (0 to {vocab_size - 1}); {advice}"
        )


def _chunks(tokens: Array) -> Iterator[Array]:
    return (tokens[start : start + _CHUNK] for start in range(0, tokens.size, _CHUNK))


# Files --------------------------------------------------------------------------------------------


def _files(path: Path) -> list[Path]:
    """Return the regular files that ``path`` names: itself, or all in the folder.

    Hidden files and folders inside a folder are skipped.

    Raises:
        DataError: it is missing, unreadable, an empty folder, or something that is no file: a
            FIFO would block, and gives its bytes to one rank only.
    """
    if not _mode_is(path, stat.S_ISDIR):
        _check_regular(path)
        return [path]
    files = list(_walk(path, lambda name: not name.startswith(".")))
    if not files:
        raise DataError(f"folder {path} holds no files (hidden ones are skipped)")
    for file in files:
        _check_regular(file)
    return files


def _walk(root: Path, wanted: Callable[[str], bool]) -> list[Path]:
    """Return the files below ``root`` whose path has only ``wanted`` names, sorted by path."""

    def fail(error: OSError) -> None:
        raise _unreadable(error.filename, error)

    found = []
    for folder, folders, names in os.walk(root, onerror=fail):
        folders[:] = filter(wanted, folders)
        found += [Path(folder, name) for name in filter(wanted, names)]
    return sorted(found, key=lambda file: file.relative_to(root).as_posix())


def _check_regular(file: Path) -> None:
    if not _mode_is(file, stat.S_ISREG):
        raise DataError(
            f"{file} is not a regular file (a FIFO, socket or device); every rank reads the corpus "
            "by itself, so copy it to a file"
        )


def _mode_is(path: Path, kind: Callable[[int], bool]) -> bool:
    try:
        return kind(path.stat().st_mode)
    except OSError as error:
        raise _unreadable(path, error) from None


def _read(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except OSError as error:
        raise _unreadable(file, error) from None


def _unreadable(path: str | Path, error: OSError) -> DataError:
    if isinstance(error, FileNotFoundError):
        return DataError(
            f"{path} does not exist (looked from {Path.cwd()}); on a cluster, every node needs it "
            "under the same path"
        )
    return DataError(f"{path} cannot be read: {error.strerror or error}; check its permissions")
