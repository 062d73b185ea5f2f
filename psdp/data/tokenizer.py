"""Text to tokens and back. The vocabulary and nothing else lives here; files are corpus.py's.

Token ids are stored in the smallest unsigned type that holds the vocabulary, since a corpus is
kept in memory as tokens.
"""

from __future__ import annotations

import codecs
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt

from psdp.errors import DataError
from psdp.params import Array

_CODE_POINTS = 0x110000


class Tokenizer(ABC):
    """What every tokenizer offers; ids are 0 <= id < ``vocab_size``.

    Attributes:
        end_of_text: the id between documents; None if there is none.
        cuts_at_lines: whether a text gives the same ids where it is cut after a newline that has no
            other blank beside it.
    """

    vocab_size: int
    end_of_text: int | None = None
    cuts_at_lines: bool = True

    @abstractmethod
    def encode(self, text: str) -> Array:
        """Return the ids (N,) of ``text``.

        Raises:
            DataError: a part of the text is not in the vocabulary; the message says which.
        """

    def encode_all(self, texts: Sequence[str]) -> Iterator[Array]:
        """Yield the ids (N,) of each text; see :meth:`encode`."""
        return map(self.encode, texts)

    def encode_utf8(self, utf8: bytes) -> Array:
        """Return the ids (N,) of a text that is UTF-8; see :meth:`encode`."""
        return self.encode(utf8.decode("utf-8"))

    @abstractmethod
    def decode(self, ids: npt.ArrayLike) -> str:
        """Return the text of ``ids`` (N,).

        Raises:
            DataError: an id is not in the vocabulary.
        """

    def byte_counts(self) -> Array | None:
        """Return how many bytes of a text in UTF-8 each id stands for (V,); None where ids stand
        for no text."""
        return None

    @abstractmethod
    def to_json(self) -> dict[str, Any]:
        """Return a plain dict from which :func:`tokenizer_from_json` builds an equal tokenizer."""

    def files(self) -> Mapping[str, str]:
        """Return by name the files whose content goes with :meth:`to_json`, which has a hash of it
        only."""
        return {}

    def stream(self) -> Stream:
        """Return a decoder for ids that arrive a few at a time."""
        return Stream(self)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Tokenizer) and self.to_json() == other.to_json()

    def __hash__(self) -> int:
        return hash((type(self), self.vocab_size))

    def _checked(self, ids: npt.ArrayLike) -> Array:
        array = np.atleast_1d(np.asarray(ids))
        if not array.size:
            return np.zeros(0, smallest_dtype(self.vocab_size))
        outside = np.flatnonzero((array < 0) | (array >= self.vocab_size))
        if outside.size:
            at = int(outside[0])
            raise DataError(
                f"token {array[at]} at position {at} is not in the vocabulary of "
                f"{self.vocab_size} tokens (0 to {self.vocab_size - 1})"
            )
        return array


class Stream:
    """Incremental decoding: the pieces of ``feed`` and the one of ``finish`` join to ``decode``."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer

    def feed(self, ids: npt.ArrayLike) -> str:
        """Return the text that ``ids`` (N,) complete; what is not yet complete is held back."""
        return self._tokenizer.decode(ids)

    def finish(self) -> str:
        """Return what is still held back, and start afresh."""
        return ""


class ByteTokenizer(Tokenizer):
    """The 256 bytes of UTF-8. Ids that are no UTF-8 decode to U+FFFD, as a model may emit them."""

    vocab_size = 256

    def encode(self, text: str) -> Array:
        try:
            return np.frombuffer(text.encode("utf-8"), np.uint8)
        except UnicodeEncodeError as error:
            raise DataError(
                f"character {text[error.start]!r} at position {error.start} has no UTF-8 form "
                "(a lone surrogate, as a terminal that is not set to UTF-8 makes)"
            ) from None

    def encode_utf8(self, utf8: bytes) -> Array:
        return np.frombuffer(utf8, np.uint8)

    def decode(self, ids: npt.ArrayLike) -> str:
        return self.to_bytes(ids).decode("utf-8", "replace")

    def stream(self) -> Stream:
        return _ByteStream(self)

    def byte_counts(self) -> Array:
        return np.ones(self.vocab_size, np.int64)

    def to_json(self) -> dict[str, Any]:
        return {"kind": "byte"}

    def to_bytes(self, ids: npt.ArrayLike) -> bytes:
        """Return the bytes that these ids stand for."""
        return self._checked(ids).astype(np.uint8).tobytes()


class _ByteStream(Stream):
    """Holds back the bytes of a character until its last one has come."""

    def __init__(self, tokenizer: ByteTokenizer) -> None:
        self._to_bytes = tokenizer.to_bytes
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")

    def feed(self, ids: npt.ArrayLike) -> str:
        return self._decoder.decode(self._to_bytes(ids))

    def finish(self) -> str:
        rest = self._decoder.decode(b"", final=True)
        self._decoder.reset()
        return rest


class CharTokenizer(Tokenizer):
    """Distinct characters in the order of their code points; id = index in that order."""

    def __init__(self, characters: str) -> None:
        """``characters``: the vocabulary, strictly increasing and not empty."""
        self.characters = characters
        self.vocab_size = len(characters)
        self._points = code_points(characters)
        assert self.vocab_size
        assert (self._points[1:] > self._points[:-1]).all()
        # One index past the last character catches everything above it.
        self._ids = np.full(int(self._points[-1]) + 2, -1, np.int32)
        self._ids[self._points] = np.arange(self.vocab_size, dtype=np.int32)

    @classmethod
    def of_texts(cls, texts: Iterable[str]) -> CharTokenizer:
        """Return the tokenizer whose vocabulary is the characters of ``texts``, not all empty."""
        seen = np.zeros(_CODE_POINTS, bool)
        for text in texts:
            seen[code_points(text)] = True
        return cls(_characters(np.flatnonzero(seen)))

    def encode(self, text: str) -> Array:
        points = code_points(text)
        ids = self._ids[np.minimum(points, self._ids.size - 1)]
        if ids.size and ids.min() < 0:
            at = int(ids.argmin())
            raise DataError(
                f"character {text[at]!r} (U+{ord(text[at]):04X}) at position {at} is not among the "
                f"{self.vocab_size} characters of the vocabulary; use characters of the training "
                "corpus, or train with --tokenizer byte, which knows every character"
            )
        return ids.astype(smallest_dtype(self.vocab_size))

    def decode(self, ids: npt.ArrayLike) -> str:
        return _characters(self._points[self._checked(ids)])

    def byte_counts(self) -> Array:
        counts: Array = 1 + np.searchsorted([0x80, 0x800, 0x10000], self._points, side="right")
        return counts

    def to_json(self) -> dict[str, Any]:
        return {"kind": "char", "characters": self.characters}


class IdTokenizer(Tokenizer):
    """For a corpus that another program tokenised: text is the ids themselves, in decimal."""

    def __init__(self, vocab_size: int) -> None:
        assert vocab_size >= 1
        self.vocab_size = vocab_size

    def encode(self, text: str) -> Array:
        ids: list[int] = []
        for index, word in enumerate(text.split()):
            if not (word.isascii() and word.isdigit()):
                raise DataError(
                    f"expected token ids separated by blanks, got {word!r} as word {index + 1}; "
                    "the corpus was tokenised by another program, which has to encode text"
                )
            # Python reads no number of thousands of digits, of which most may be zeros in front.
            digits = word.lstrip("0") or "0"
            if len(digits) > len(str(self.vocab_size)) or int(digits) >= self.vocab_size:
                shown = word if len(word) <= 40 else f"{word[:20]}... of {len(word)} digits"
                raise DataError(
                    f"token {shown} (word {index + 1}) is not in the vocabulary of "
                    f"{self.vocab_size} tokens (0 to {self.vocab_size - 1})"
                )
            ids.append(int(digits))
        return np.array(ids, smallest_dtype(self.vocab_size))

    def decode(self, ids: npt.ArrayLike) -> str:
        return " ".join(map(str, self._checked(ids).tolist()))

    def stream(self) -> Stream:
        return _IdStream(self)

    def to_json(self) -> dict[str, Any]:
        return {"kind": "ids", "vocab_size": self.vocab_size}


class _IdStream(Stream):
    """Puts a blank between the last id of a piece and the first of the next."""

    def __init__(self, tokenizer: IdTokenizer) -> None:
        super().__init__(tokenizer)
        self._blank = ""

    def feed(self, ids: npt.ArrayLike) -> str:
        text = self._tokenizer.decode(ids)
        if not text:
            return ""
        text, self._blank = self._blank + text, " "
        return text

    def finish(self) -> str:
        self._blank = ""
        return ""


def tokenizer_from_json(value: Any) -> Tokenizer:
    """Return the tokenizer that :meth:`Tokenizer.to_json` described.

    Raises:
        DataError: ``value`` describes no tokenizer.
    """
    match value:
        case {"kind": "byte", **rest} if not rest:
            return ByteTokenizer()
        case {"kind": "char", "characters": str(characters), **rest} if not rest:
            if characters and all(a < b for a, b in pairwise(characters)):
                return CharTokenizer(characters)
        case {"kind": "ids", "vocab_size": int(size), **rest} if not rest:
            if size >= 1 and not isinstance(size, bool):
                return IdTokenizer(size)
    shown = repr(value)
    shown = shown if len(shown) <= 80 else shown[:77] + "..."
    raise DataError(
        "expected a tokenizer: {'kind': 'byte'}, {'kind': 'char', 'characters': distinct, sorted} "
        f"or {{'kind': 'ids', 'vocab_size': n}}; got {shown}"
    )


def smallest_dtype(vocab_size: int) -> npt.DTypeLike:
    """Return the smallest of uint8, uint16 and uint32 that holds every id below ``vocab_size``."""
    return np.uint8 if vocab_size <= 1 << 8 else np.uint16 if vocab_size <= 1 << 16 else np.uint32


def code_points(text: str) -> Array:
    """Return the code points (len(text),) uint32 of ``text``, read-only."""
    return np.frombuffer(text.encode("utf-32-le", "surrogatepass"), "<u4")


def _characters(points: Array) -> str:
    return points.astype("<u4").tobytes().decode("utf-32-le", "surrogatepass")
