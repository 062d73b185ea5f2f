"""The corpus: what ``--corpus`` and ``--val-corpus`` name, as tokens to train and validate on."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from psdp.config import DataConfig
from psdp.data.files import find_files, is_folder, printable
from psdp.data.formats import holds_tokens
from psdp.data.formats.text import pieces
from psdp.data.texts import Texts, read_texts, standard_library
from psdp.data.token_files import Chosen, TokenFiles, check_vocabulary_said, chosen_of
from psdp.data.tokenizer import ByteTokenizer, CharTokenizer, IdTokenizer, Tokenizer
from psdp.data.tokens import Tokens
from psdp.errors import ConfigError, DataError

Told = Callable[[int, int], object]
"""Is handed how many bytes of tokens have been read, and how many there are, some at a time."""


@dataclass(frozen=True)
class Corpus:
    """Tokens, ready to be cut into windows.

    Attributes:
        train, val: of any integer type, in memory or mapped; ``val`` is empty with
            ``--val-fraction 0``.
        sha256: of the text in UTF-8 after cleaning (so of the file itself, where it is one and not
            cleaned), or of the tokens as stored; of these two of both, where the validation has
            files of its own.
        sources: the files, in their order.
        checks: by file, by what a change of it is found.
    """

    train: Tokens
    val: Tokens
    tokenizer: Tokenizer
    sha256: str
    sources: tuple[str, ...]
    checks: tuple[str, ...]
    description: str

    @property
    def vocab_size(self) -> int:
        return self.tokenizer.vocab_size


@dataclass(frozen=True)
class _Part:
    """What one of the two flags names: all of one row of tokens."""

    tokens: Tokens
    sha256: str
    sources: tuple[str, ...]
    checks: tuple[str, ...]
    about: str


def _nobody(done: int, of: int) -> None:
    pass


def load_corpus(config: DataConfig, told: Told = _nobody) -> Corpus:
    """Return the corpus that ``config`` names, tokenised and split.

    Files of tokens are mapped, not read; any number of them is one row, which is never joined.

    Raises:
        ConfigError: a setting that is for text is given with tokens, or the reverse.
        DataError: a file is missing, unreadable, empty, damaged, no text, or holds a token outside
            the vocabulary.
    """
    of_python = config.corpus == ("stdlib",)
    named = Chosen(()) if of_python else _named(config.corpus)
    val = named.val if config.val_fraction else ()
    if config.val_corpus is not None:
        val = _named(config.val_corpus).all
    files = (*named.train, *val)
    tokens = tuple(filter(holds_tokens, files))
    if not tokens:
        return _from_texts(config, named, val)
    if of_python or len(tokens) < len(files):
        text = "stdlib" if of_python else next(file for file in files if file not in tokens)
        raise DataError(
            f"--corpus mixes text ({text}) and tokens ({tokens[0]}); give one or the other"
        )
    return _from_tokens(config, named, val, told)


def _named(paths: Sequence[str]) -> Chosen:
    """Return the files that a flag names.

    Raises:
        DataError: one cannot be looked at, or is no file.
    """
    chosen = Chosen(())
    for path in map(Path, paths):
        found = find_files(path)
        inside = chosen_of(found.files) if is_folder(path) else Chosen(found.files)
        chosen += Chosen(inside.train, inside.val, (*inside.left_out, *found.own))
    return chosen


def _from_texts(config: DataConfig, named: Chosen, val: Sequence[Path]) -> Corpus:
    for flag, value in (
        ("--vocab-size", config.vocab_size),
        ("--token-dtype", config.token_dtype),
    ):
        if value is not None:
            raise ConfigError(
                f"{flag} {value} is for tokenised corpora (.npy, .bin), but --corpus "
                f"{' '.join(config.corpus)} is text, whose vocabulary --tokenizer "
                f"{config.tokenizer} makes; drop {flag}"
            )
    texts = [
        read_texts(config.corpus, named.train, config.clean, config.text_field)
        if named.train
        else standard_library(config.clean)
    ]
    if config.val_corpus is not None:
        texts.append(read_texts(config.val_corpus, val, config.clean, config.text_field))
    tokenizer = _tokenizer(config, texts)
    return _joined(config, tokenizer, [_encoded(tokenizer, text) for text in texts], named)


def _tokenizer(config: DataConfig, texts: Sequence[Texts]) -> Tokenizer:
    if config.tokenizer == "byte":
        return ByteTokenizer()
    return CharTokenizer.of_texts(
        piece.decode("utf-8") for text in texts for _, piece in pieces(text.utf8)
    )


def _encoded(tokenizer: Tokenizer, text: Texts) -> _Part:
    # Of characters there are up to four times as many bytes as of text: some at a time.
    some = (tokenizer.encode_utf8(piece) for _, piece in pieces(text.utf8))
    sha256 = hashlib.sha256(text.utf8).hexdigest()
    return _Part(Tokens.of(*some), sha256, text.sources, text.checks, str(text))


def _from_tokens(config: DataConfig, named: Chosen, val: Sequence[Path], told: Told) -> Corpus:
    for flag, value, default in (
        ("--clean", config.clean, DataConfig.clean),
        ("--text-field", config.text_field, DataConfig.text_field),
        ("--tokenizer", config.tokenizer, DataConfig.tokenizer),
    ):
        if value != default:
            raise ConfigError(
                f"{flag} {value} is for text, but {named.train[0]} is tokenised already; drop "
                f"{flag}"
            )
    parts = [TokenFiles.of(files, config.token_dtype) for files in (named.train, val) if files]
    tokenizer: Tokenizer
    if config.vocab_size is None:
        check_vocabulary_said(named.left_out, parts)
        tokenizer = ByteTokenizer()
    else:
        tokenizer = IdTokenizer(config.vocab_size)
    done, of = 0, sum(part.nbytes for part in parts)

    def tell(more: int) -> None:
        nonlocal done
        done += more
        told(done, of)

    checked = [part.check(tokenizer.vocab_size, tell) for part in parts]
    rows = [
        _Part(part.tokens, sha256, part.sources, checks, str(part))
        for part, (sha256, checks) in zip(parts, checked, strict=True)
    ]
    return _joined(config, tokenizer, rows, named)


def _joined(
    config: DataConfig, tokenizer: Tokenizer, parts: Sequence[_Part], named: Chosen
) -> Corpus:
    """Return the corpus of what is trained on, and of what is kept for validation if that is not a
    part of it."""
    first, size = parts[0], sum(part.tokens.size for part in parts)
    sha256 = first.sha256
    if len(parts) == 1:
        cut = size - int(size * config.val_fraction)
        train, val = first.tokens.part(0, cut), first.tokens.part(cut, size)
    else:
        train, val = (part.tokens for part in parts)
        sha256 = hashlib.sha256("".join(part.sha256 for part in parts).encode()).hexdigest()
    about = ", validation ".join(part.about for part in parts)
    return Corpus(
        train=train,
        val=val,
        tokenizer=tokenizer,
        sha256=sha256,
        sources=tuple(source for part in parts for source in part.sources),
        checks=tuple(check for part in parts for check in part.checks),
        description=f"{about}, {size:,} tokens, vocabulary {tokenizer.vocab_size:,}"
        + _left_out(named.left_out),
    )


def _left_out(files: Sequence[Path], shown: int = 3) -> str:
    """Return the end of a line on a corpus of which this was left out."""
    if not files:
        return ""
    more = f" and {len(files) - shown} more" if len(files) > shown else ""
    return f" (left out: {', '.join(map(printable, files[:shown]))}{more})"
