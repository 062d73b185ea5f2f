"""Texts: read from files, cleaned, and joined."""

from __future__ import annotations

import contextlib
import hashlib
import platform
import sysconfig
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from psdp.data.clean import cleaned
from psdp.data.files import printable, read_file, walk
from psdp.data.formats import read_documents
from psdp.data.formats.fields import Fields
from psdp.data.formats.text import NotText, text_of
from psdp.errors import DataError

SEPARATOR = "\n"
"""Between two texts, unless it is said what."""

_NOT_SOURCE = frozenset(
    {"test", "tests", "idle_test", "__pycache__", "site-packages", "dist-packages"}
)
_SHOWN = 5
"""Files that an error names; of more it says how many."""


@dataclass(frozen=True)
class Texts:
    """What was read.

    Attributes:
        name: of it all, for a line.
        sources: the files' names.
        checks: of each one's text, by which a change is found.
        documents: in UTF-8, one of each file or record.
    """

    name: str
    sources: tuple[str, ...]
    checks: tuple[str, ...]
    documents: tuple[bytes, ...]

    @property
    def size(self) -> int:
        """Bytes of all documents."""
        return sum(map(len, self.documents))

    @cached_property
    def digest(self) -> str:
        """The hash of all documents, and of where each ends."""
        digest = hashlib.sha256()
        for document in self.documents:
            digest.update(b"%d," % len(document))
            digest.update(document)
        return digest.hexdigest()

    def joined(self, separator: str = SEPARATOR) -> bytes:
        """Return all documents as one."""
        return separator.encode("utf-8").join(self.documents)

    def __str__(self) -> str:
        files = f"{len(self.sources):,} file{'s' if len(self.sources) > 1 else ''}"
        return f"{self.name}: {files}, {self.size / 1e6:.1f} MB of text"


def read_texts(paths: Sequence[str], files: Sequence[Path], level: str, fields: Fields) -> Texts:
    """Return the texts of ``files``, which are what ``paths`` name, cleaned to ``level``.

    An empty one is fine among others, as in Python packages.

    Args:
        fields: of records, that are the text.

    Raises:
        ConfigError: a library that a format needs is not installed.
        DataError: one cannot be read or holds no text, or there is no text in all of them.
    """
    texts: list[list[bytes]] = [[] for _ in files]
    for number, document in read_each(files, fields):
        texts[number].append(document)
    if not any(map(any, texts)):
        raise DataError(f"{' '.join(map(printable, paths))} is empty; give files that hold text")
    name = printable(paths[0]) if len(paths) == 1 else f"{len(paths)} paths"
    return _joined(name, tuple(map(printable, files)), texts, level)


def read_each(files: Sequence[Path], fields: Fields) -> Iterator[tuple[int, bytes]]:
    """Yield the texts in these files, each with the number of its file.

    Args:
        fields: of records, that are the text.

    Raises:
        ConfigError: a library that a format needs is not installed.
        DataError: one cannot be read; or some hold no text, all of which are named, and from the
            first of them on nothing is yielded.
    """
    refused: list[NotText] = []
    for number, file in enumerate(files):
        try:
            for document in read_documents(file, fields):
                if not refused:
                    yield number, document
        except NotText as error:
            refused.append(error)
    if refused:
        raise _all_refused(refused, len(files))


def standard_library(level: str) -> Texts:
    """Return the standard library's source files, without its tests.

    A file in another encoding (legal in Python, rare in the library) is left out.

    Raises:
        DataError: this Python has none.
    """
    root = Path(sysconfig.get_path("stdlib"))
    texts = {}
    for file in walk(root, lambda name: name not in _NOT_SOURCE).files:
        if file.suffix == ".py":
            with contextlib.suppress(NotText):
                texts[file.relative_to(root).as_posix()] = [text_of(file, read_file(file))]
    if not any(map(any, texts.values())):
        raise DataError(
            f"this Python has no source of its standard library in {root}; name text files or "
            "folders with --corpus"
        )
    name = f"Python {platform.python_version()} standard library"
    return _joined(name, tuple(texts), list(texts.values()), level)


def _joined(name: str, sources: tuple[str, ...], texts: list[list[bytes]], level: str) -> Texts:
    """Return the texts of some files as one.

    Args:
        texts: of each file, those that it holds.
    """
    # One by one: a tag left open in one must not swallow the next.
    texts = [[cleaned(one, level) for one in of] for of in texts]
    if not any(one.strip() for of in texts for one in of):
        left = (
            "it holds only blanks" if level == "none" else f"no text is left after --clean {level}"
        )
        raise DataError(f"{name}: {left}; give files that hold text")
    return Texts(name, sources, tuple(map(_check, texts)), tuple(one for of in texts for one in of))


def _check(documents: Sequence[bytes]) -> str:
    """Return what changes if the documents of a file do."""
    check = 0
    for document in documents:
        check = zlib.crc32(document, zlib.crc32(b"%d," % len(document), check))
    return f"{check:08x}"


def _all_refused(refused: Sequence[NotText], of: int) -> DataError:
    if len(refused) == 1:
        return refused[0]
    named = ", ".join(f"{error.file} ({error.what})" for error in refused[:_SHOWN])
    more = f" and {len(refused) - _SHOWN} more" if len(refused) > _SHOWN else ""
    return DataError(
        f"{len(refused)} of {of} files hold no text in UTF-8: {named}{more}; convert or unpack "
        "them, or take them out of the corpus"
    )
