"""Subwords: tokenizers of Hugging Face's format, and byte-level BPE trained on a text.

The library is loaded when the first of them is made.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from psdp.data.extra import needed
from psdp.data.files import is_folder, read_file
from psdp.data.tokenizer import Stream, Tokenizer, smallest_dtype, tokenizer_from_json
from psdp.errors import ConfigError, DataError
from psdp.params import Array
from psdp.processes import on_threads

DEFINITION = "tokenizer.json"
"""What defines a tokenizer, as a file's name."""

END_OF_TEXT = "<|endoftext|>"
_ENDS = (END_OF_TEXT, "<|end_of_text|>", "<|eos|>", "</s>", "<eos>", "[SEP]")
"""By what names a token between documents goes."""

_A_BYTE = re.compile(r"<0x[0-9A-F]{2}>$")
"""The name of a token that is a byte, among tokens that are text."""

LEAST = 257
"""A vocabulary has all bytes, and the end of a text."""


class SubwordTokenizer(Tokenizer):
    """A tokenizer that a ``tokenizer.json`` defines.

    Args:
        definition: the content of that file.
        vocab_size: of the model, if it is to be larger than the tokenizer's.

    """

    def __init__(self, definition: str, vocab_size: int | None = None) -> None:
        """
        Raises:
            ConfigError: the library is not installed, or ``vocab_size`` is smaller than the
                tokenizer's.
            DataError: the definition is none.
        """
        library = needed("tokenizers", "this tokenizer is one of subwords")
        try:
            self._inner = library.Tokenizer.from_str(definition)
        except Exception as error:  # it has no class of its own
            raise DataError(f"no tokenizer of the tokenizers library: {error}") from None
        self._inner.no_padding()
        self._inner.no_truncation()
        self.definition = definition
        vocabulary = self._inner.get_vocab(with_added_tokens=True)
        own = max(vocabulary.values(), default=-1) + 1
        if vocab_size is not None and vocab_size < own:
            raise ConfigError(
                f"--vocab-size {vocab_size} is smaller than that of the tokenizer, which has {own} "
                "tokens; drop the flag, or raise it"
            )
        self.vocab_size = vocab_size or own
        ends = (vocabulary[name] for name in _ENDS if name in vocabulary)
        self.end_of_text = next(ends, None)
        self.cuts_at_lines = _cuts_at_lines(json.loads(definition))

    @classmethod
    def at(cls, path: Path, vocab_size: int | None = None) -> SubwordTokenizer:
        """Return the tokenizer of a file, or of a folder that has one: a ``tokenizer.json``, or
        GPT-2's ``vocab.json`` and ``merges.txt``.

        Raises:
            ConfigError, DataError: there is none, or as of the class.
        """
        try:
            return cls(_definition_at(path), vocab_size)
        except DataError as error:
            raise DataError(f"--tokenizer {path}: {error}") from None

    @classmethod
    def trained(cls, texts: Iterable[str], vocab_size: int) -> SubwordTokenizer:
        """Return a byte-level BPE (Sennrich et al. 2016, arXiv:1508.07909) of at most so many
        tokens, all bytes and the end of a text among them, of which no text is outside. Where texts
        are cut at lines makes no difference (:attr:`Tokenizer.cuts_at_lines`)."""
        library = needed("tokenizers", "--tokenizer bpe is one of subwords")
        inner = library.Tokenizer(library.models.BPE())
        _split_as_bytes(library, inner)
        trainer = library.trainers.BpeTrainer(
            vocab_size=vocab_size,
            special_tokens=[END_OF_TEXT],
            initial_alphabet=sorted(library.pre_tokenizers.ByteLevel.alphabet()),
            show_progress=False,
        )
        # It takes minutes, on threads of the library's, in which this one would do nothing at all.
        on_threads(1, [partial(inner.train_from_iterator, texts, trainer)])
        return cls(inner.to_str())

    def encode(self, text: str) -> Array:
        return self._ids(self._inner.encode(_whole(text), add_special_tokens=False))

    def encode_all(self, texts: Sequence[str]) -> Iterator[Array]:
        """Yield the ids (N,) of each text; the library takes all cores."""
        encode = partial(self._inner.encode_batch_fast, [*texts], add_special_tokens=False)
        yield from map(self._ids, *on_threads(1, [encode]))

    def _ids(self, encoding: Any) -> Array:
        return np.array(encoding.ids, smallest_dtype(self.vocab_size))

    def decode(self, ids: npt.ArrayLike) -> str:
        text: str = self._inner.decode(self._checked(ids).tolist(), skip_special_tokens=False)
        return text

    def stream(self) -> Stream:
        return _SubwordStream(self)

    def byte_counts(self) -> Array:
        """See :class:`Tokenizer`; what ends a text is none of it."""
        counts = np.zeros(self.vocab_size, np.int64)
        vocabulary = self._inner.get_vocab(with_added_tokens=False)
        names, ids = [*vocabulary], np.fromiter(vocabulary.values(), np.int64)
        if _spells_bytes(json.loads(self.definition)):
            counts[ids] = [*map(len, names)]
        else:
            # What it adds to one before it: alone it may lose a blank.
            counts[ids] = self._sizes(ids, 2) - self._sizes(ids, 1)
            counts[ids[[bool(_A_BYTE.match(name)) for name in names]]] = 1
        for id, token in self._inner.get_added_tokens_decoder().items():
            counts[id] = len(token.content.encode())
        if self.end_of_text is not None:
            counts[self.end_of_text] = 0
        return counts

    def _sizes(self, ids: Array, times: int) -> Array:
        """Return the bytes (n,) of the text of each id, so many times one after the other."""
        rows = np.tile(ids[:, None], times).tolist()
        texts = self._inner.decode_batch(rows, skip_special_tokens=False)
        return np.array([len(text.encode()) for text in texts], np.int64)

    def to_json(self) -> dict[str, Any]:
        digest = _sha256(self.definition)
        return {"kind": "subwords", "sha256": digest, "vocab_size": self.vocab_size}

    def files(self) -> Mapping[str, str]:
        return {DEFINITION: self.definition}


class _SubwordStream(Stream):
    """Holds back what may be a part of a character. A token is decoded after those of the piece
    before, since it may begin with a blank only there."""

    def __init__(self, tokenizer: SubwordTokenizer) -> None:
        super().__init__(tokenizer)
        self._before: list[int] = []
        self._held: list[int] = []

    def feed(self, ids: npt.ArrayLike) -> str:
        self._held += np.atleast_1d(np.asarray(ids, np.int64)).tolist()
        text = self._decoded()
        if text.endswith("\ufffd"):
            return ""
        self._before, self._held = self._held or self._before, []
        return text

    def finish(self) -> str:
        text = self._decoded()
        self._before, self._held = [], []
        return text

    def _decoded(self) -> str:
        before = self._tokenizer.decode(self._before)
        return self._tokenizer.decode(self._before + self._held)[len(before) :]


def _sha256(definition: str) -> str:
    return hashlib.sha256(definition.encode()).hexdigest()


def _whole(text: str) -> str:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise DataError(
            f"character {text[error.start]!r} at position {error.start} has no UTF-8 form "
            "(a lone surrogate, as a terminal that is not set to UTF-8 makes)"
        ) from None
    return text


def _definition_at(path: Path) -> str:
    if not is_folder(path):
        return _text(path)
    if (path / DEFINITION).exists():
        return _text(path / DEFINITION)
    if (path / "vocab.json").exists() and (path / "merges.txt").exists():
        return _of_gpt2(path / "vocab.json", path / "merges.txt")
    raise DataError(f"the folder holds no {DEFINITION}, and no vocab.json and merges.txt")


def _text(file: Path) -> str:
    try:
        return read_file(file).decode("utf-8")
    except UnicodeDecodeError:
        raise DataError("it is not UTF-8") from None


def _of_gpt2(vocabulary: Path, merges: Path) -> str:
    """Return the definition of a byte-level BPE in the two files that GPT-2's came in."""
    library = needed("tokenizers", f"{vocabulary} is a vocabulary of subwords")
    lines = _text(merges).split("\n")
    pairs = [line.split(" ") for line in lines if not line.startswith("#version")]
    try:
        known = json.loads(_text(vocabulary))
        learnt = [tuple(pair) for pair in pairs if len(pair) == 2]
        inner = library.Tokenizer(library.models.BPE(known, learnt))
    except Exception as error:  # it has no class of its own
        raise DataError(f"no vocabulary of a byte-level BPE: {error}") from None
    _split_as_bytes(library, inner)
    if END_OF_TEXT in known:
        inner.add_special_tokens([END_OF_TEXT])
    text: str = inner.to_str()
    return text


def _cuts_at_lines(definition: Any) -> bool:
    """Say whether a tokenizer splits text as GPT-2's does: a lone newline is a token by itself."""
    before = definition.get("pre_tokenizer") or {}
    return (
        definition.get("normalizer") is None
        and before.get("type") == "ByteLevel"
        and before.get("use_regex", True)
        and not before.get("add_prefix_space", True)
    )


def _spells_bytes(definition: Any) -> bool:
    """Say whether each character of a token's name stands for a byte."""
    decoder = definition.get("decoder") or {}
    return any(part.get("type") == "ByteLevel" for part in (decoder, *decoder.get("decoders", ())))


def _split_as_bytes(library: Any, inner: Any) -> None:
    """Have a tokenizer take text as GPT-2's does: any bytes, and give back the same."""
    inner.pre_tokenizer = library.pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = library.decoders.ByteLevel()


def tokenizer_of(value: Any, beside: Callable[[str], str]) -> Tokenizer:
    """Return the tokenizer that :meth:`Tokenizer.to_json` described.

    Args:
        beside: returns the content of a file that goes beside the description, by its name.

    Raises:
        ConfigError: a library that it needs is not installed.
        DataError: there is none, or what goes beside belongs to another one.
    """
    match value:
        case {"kind": "subwords", "vocab_size": int(size), "sha256": str(digest)}:
            definition = beside(DEFINITION)
            if _sha256(definition) != digest:
                raise DataError(f"{DEFINITION} is not the one that the tokens are of")
            return SubwordTokenizer(definition, size)
    return tokenizer_from_json(value)
