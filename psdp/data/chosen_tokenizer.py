"""Which tokenizer a corpus is read with: what is said, and what the corpus is of."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from psdp.config import DataConfig
from psdp.data.formats.text import pieces
from psdp.data.prepared import Says, learnt_tokenizer
from psdp.data.subwords import LEAST, SubwordTokenizer
from psdp.data.texts import SEPARATOR, Texts
from psdp.data.token_files import TokenFiles, check_vocabulary_said
from psdp.data.token_folder import TokenFolder
from psdp.data.tokenizer import (
    ByteTokenizer,
    CharTokenizer,
    IdTokenizer,
    Tokenizer,
    tokenizer_from_json,
)
from psdp.errors import ConfigError

BYTE, CHAR, BPE = "byte", "char", "bpe"
"""Values of ``--tokenizer``; any other is a path."""

DESCRIBED = "{"
"""How the account of a tokenizer itself begins (:meth:`Tokenizer.to_json`), as a run has it that
goes on with the characters of another."""

LEARNT = 4096
"""Subwords that are learnt, unless it is said how many."""


def of_texts(config: DataConfig, texts: Sequence[Texts], says: Says) -> Tokenizer:
    """Return the tokenizer for texts.

    Raises:
        ConfigError: ``--vocab-size`` is given where it has no say, or is too small; or a library is
            not installed.
        DataError: there is no tokenizer where one is said to be.
    """
    if config.tokenizer in (BYTE, CHAR) and config.vocab_size is not None:
        raise ConfigError(
            f"--vocab-size {config.vocab_size} is for tokenised corpora (.npy, .bin) and for "
            f"--tokenizer {BPE}, but --corpus {' '.join(config.corpus)} is text, whose vocabulary "
            f"--tokenizer {config.tokenizer} makes; drop --vocab-size, or, where it is that of "
            "--init-from, say that model's tokenizer with --tokenizer PATH"
        )
    match config.tokenizer:
        case "byte":
            return ByteTokenizer()
        case "char":
            utf8 = (text.joined(config.document_separator or SEPARATOR) for text in texts)
            return CharTokenizer.of_texts(
                piece.decode("utf-8") for text in utf8 for _, piece in pieces(text)
            )
        case "bpe":
            check_size(config.vocab_size)
            return learnt_tokenizer(texts[0], config.vocab_size or LEARNT, says)
    return _said(config)


def _said(config: DataConfig) -> Tokenizer:
    """Return the tokenizer that a path names, or that is described itself.

    Raises:
        ConfigError, DataError: there is none.
    """
    if config.tokenizer.startswith(DESCRIBED):
        try:
            told = json.loads(config.tokenizer)
        except ValueError:
            raise ConfigError(
                f"--tokenizer {config.tokenizer:.80} is no path, and not the JSON of a tokenizer"
            ) from None
        return tokenizer_from_json(told)
    return SubwordTokenizer.at(Path(config.tokenizer), config.vocab_size)


def check_size(said: int | None) -> None:
    """
    Raises:
        ConfigError: so few subwords cannot be learnt.
    """
    if said is not None and said < LEAST:
        raise ConfigError(
            f"--tokenizer bpe knows all bytes and the end of a text, and needs --vocab-size "
            f"{LEAST} at least, got {said}"
        )


def of_files(
    config: DataConfig, left_out: Sequence[Path], parts: Sequence[TokenFiles]
) -> Tokenizer:
    """Return the tokenizer for files of tokens.

    Raises:
        ConfigError: one is said that can only make tokens, or the vocabulary is not said and what
            does is a pickle.
        DataError: there is no tokenizer where one is said to be.
    """
    if config.tokenizer in (CHAR, BPE):
        raise ConfigError(
            f"--tokenizer {config.tokenizer} is for text, but {parts[0].files[0]} is tokenised "
            "already; drop --tokenizer"
        )
    if config.tokenizer != BYTE:
        return _said(config)
    if config.vocab_size is not None:
        return IdTokenizer(config.vocab_size)
    check_vocabulary_said(left_out, parts)
    return ByteTokenizer()


def check_bytes(folder: TokenFolder) -> None:
    """
    Raises:
        ConfigError: the tokens are not bytes, as a person says that they are.
    """
    if not isinstance(folder.tokenizer, ByteTokenizer):
        raise _not_that_of(folder, BYTE)


def of_folder(config: DataConfig, folder: TokenFolder) -> Tokenizer:
    """Return the tokenizer for tokens of which there is an account: the one that it says.

    Raises:
        ConfigError: another one is said, or a smaller vocabulary.
    """
    own = folder.tokenizer
    match config.tokenizer:
        case "byte":  # or none is said; see check_bytes
            same = True
        case "char":
            same = isinstance(own, CharTokenizer)
        case "bpe":
            same = isinstance(own, SubwordTokenizer)
        case described if described.startswith(DESCRIBED):
            same = own == _said(config)
        case path:
            said = SubwordTokenizer.at(Path(path))
            same = isinstance(own, SubwordTokenizer) and own.definition == said.definition
    if not same:
        raise _not_that_of(folder, config.tokenizer)
    if config.vocab_size in (None, own.vocab_size):
        return own
    if not isinstance(own, SubwordTokenizer):
        raise ConfigError(
            f"--vocab-size {config.vocab_size} is not that of the tokens in {folder.folder}, which "
            f"is {own.vocab_size}; drop the flag"
        )
    return SubwordTokenizer(own.definition, config.vocab_size)


def _not_that_of(folder: TokenFolder, said: str) -> ConfigError:
    own = folder.tokenizer
    return ConfigError(
        f"--tokenizer {said} is not the one that the tokens in {folder.folder} were made with "
        f"({own.to_json()['kind']}, {own.vocab_size:,} tokens); drop the flag"
    )
