"""The corpus: what ``--corpus`` and ``--val-corpus`` name, as tokens to train and validate on."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from psdp.config import DOCUMENT, PACKED, DataConfig, flag_of
from psdp.data import chosen_tokenizer
from psdp.data.documents import Marks
from psdp.data.files import find_files, is_folder, printable
from psdp.data.formats import holds_tokens
from psdp.data.formats.fields import Fields
from psdp.data.formats.text import pieces
from psdp.data.prepared import tokenised
from psdp.data.subwords import SubwordTokenizer
from psdp.data.texts import SEPARATOR, read_texts, standard_library
from psdp.data.token_files import Chosen, TokenFiles, chosen_of
from psdp.data.token_folder import ACCOUNT, TokenFolder
from psdp.data.tokenising import separator_of
from psdp.data.tokenizer import Tokenizer
from psdp.data.tokens import Tokens
from psdp.errors import ConfigError, DataError

PYTHON = "stdlib"
"""In place of paths: the source of Python's own library."""


class Listener:
    """Hears how a corpus is read."""

    def says(self, line: str) -> None:
        """Hear what is being done that takes long."""

    def read(self, done: int, of: int) -> None:
        """Hear how many bytes of tokens have been read, and of how many."""


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
        marks: of documents, where windows respect these.
    """

    train: Tokens
    val: Tokens
    tokenizer: Tokenizer
    sha256: str
    sources: tuple[str, ...]
    checks: tuple[str, ...]
    description: str
    marks: Marks | None = None

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


def load_corpus(config: DataConfig, listener: Listener | None = None) -> Corpus:
    """Return the corpus that ``config`` names, tokenised and split.

    Files of tokens are mapped, not read; any number of them is one row, which is never joined.

    Raises:
        ConfigError: a setting that is for text is given with tokens, or the reverse; or a library
            that the corpus needs is not installed.
        DataError: a file is missing, unreadable, empty, damaged, no text, or holds a token outside
            the vocabulary.
    """
    listener = listener or Listener()
    folders = [_accounted(paths) for paths in (config.corpus, config.val_corpus) if paths]
    if any(folders):
        return _from_folders(config, folders)
    of_python = config.corpus == (PYTHON,)
    named = Chosen(()) if of_python else _named(config.corpus)
    if config.val_corpus is not None:
        named = named.with_val(_named(config.val_corpus).all)
    elif not config.val_fraction:
        named = named.with_val(())
    tokens = tuple(filter(holds_tokens, named.all))
    if not tokens:
        return _from_texts(config, named, listener)
    if of_python or len(tokens) < len(named.all):
        text = PYTHON if of_python else next(file for file in named.all if file not in tokens)
        raise DataError(
            f"--corpus mixes text ({text}) and tokens ({tokens[0]}); give one or the other"
        )
    return _from_files(config, named, listener)


def check_bytes_said(paths: Sequence[str]) -> None:
    """See that a corpus is no folder of other tokens than bytes, where a person says these. Reading
    it cannot tell: ``byte`` is the tokenizer of a :class:`DataConfig` of which none is said, too.

    Raises:
        ConfigError: it is one.
        DataError: its account cannot be read.
    """
    folder = _accounted(paths)
    if folder is not None:
        chosen_tokenizer.check_bytes(TokenFolder.read(folder))


def _accounted(paths: Sequence[str]) -> Path | None:
    """Return the folder of tokens with an account that a flag names, if it does.

    Raises:
        DataError: it names more.
    """
    for path in map(Path, paths):
        if os.path.isfile(path / ACCOUNT):
            if len(paths) > 1:
                raise DataError(f"{path} is a folder of psdp.tokenize, which is a whole corpus")
            return path
    return None


def _named(paths: Sequence[str]) -> Chosen:
    """Return the files that a flag names.

    Raises:
        DataError: one cannot be looked at, or is no file.
    """
    chosen = Chosen(())
    if PYTHON in paths and not os.path.exists(PYTHON):
        raise DataError(f"'{PYTHON}' is a whole --corpus; name nothing beside it")
    for path in map(Path, paths):
        found = find_files(path)
        inside = chosen_of(found.files) if is_folder(path) else Chosen(found.files)
        chosen += Chosen(inside.train, inside.val, (*inside.left_out, *found.own))
    return chosen


def _from_texts(config: DataConfig, named: Chosen, listener: Listener) -> Corpus:
    if config.token_dtype is not None:
        raise ConfigError(
            f"--token-dtype {config.token_dtype} is for tokenised corpora (.bin), but --corpus "
            f"{' '.join(config.corpus)} is text; drop --token-dtype"
        )
    fields = Fields.of(config)
    texts = [
        read_texts(config.corpus, named.train, config.clean, fields)
        if named.train
        else standard_library(config.clean)
    ]
    if config.val_corpus is not None:
        texts.append(read_texts(config.val_corpus, named.val, config.clean, fields))
    tokenizer = chosen_tokenizer.of_texts(config, texts, listener.says)
    parts = []
    for text in texts:
        if isinstance(tokenizer, SubwordTokenizer):
            separators = config.document_separator, config.prompt_separator
            folder = tokenised(text, tokenizer, *separators, listener.says)
            tokens, sha256 = Tokens(folder.map()), folder.sha256
        else:
            utf8 = text.joined(config.document_separator or SEPARATOR)
            # Of characters there are up to four times as many bytes as of text: some at a time.
            tokens = Tokens.of(*(tokenizer.encode_utf8(piece) for _, piece in pieces(utf8)))
            sha256 = hashlib.sha256(utf8).hexdigest()
        parts.append(_Part(tokens, sha256, text.sources, text.checks, str(text)))
    return _joined(config, tokenizer, parts, named.left_out)


def _from_files(config: DataConfig, named: Chosen, listener: Listener) -> Corpus:
    _check_no_text(config, named.train[0])
    files = [TokenFiles.of(some, config.token_dtype) for some in (named.train, named.val) if some]
    tokenizer = chosen_tokenizer.of_files(config, named.left_out, files)
    done, of = 0, sum(part.nbytes for part in files)

    def tell(more: int) -> None:
        nonlocal done
        done += more
        listener.read(done, of)

    checked = [part.check(tokenizer.vocab_size, tell) for part in files]
    parts = [
        _Part(part.tokens, sums.sha256, part.sources, sums.checks, str(part))
        for part, sums in zip(files, checked, strict=True)
    ]
    return _joined(config, tokenizer, parts, named.left_out)


def _from_folders(config: DataConfig, folders: Sequence[Path | None]) -> Corpus:
    if None in folders:
        whole = next(filter(None, folders))
        raise DataError(
            f"{whole} is a folder of psdp.tokenize, which goes with another one as its validation; "
            "make that of --corpus and of --val-corpus"
        )
    read = [TokenFolder.read(folder) for folder in folders if folder is not None]
    for folder in read:
        _check_no_text(config, folder.folder)
        if folder.tokenizer != read[0].tokenizer:
            raise DataError(
                f"{folder.folder} and {read[0].folder} were made with different tokenizers; make "
                "one of them again"
            )
    tokenizer = chosen_tokenizer.of_folder(config, read[0])
    parts = [
        _Part(Tokens(one.map()), one.sha256, one.sources, one.checks, printable(one.folder))
        for one in read
    ]
    return _joined(config, tokenizer, parts, ())


def _check_no_text(config: DataConfig, tokens: Path) -> None:
    """
    Raises:
        ConfigError: a setting is given that is for text.
    """
    cut = ("document_separator",) if config.window == PACKED else ()
    for name in ("clean", "text_field", "prompt_field", *cut):
        value = getattr(config, name)
        if value != getattr(DataConfig, name):
            flag = flag_of(name)
            raise ConfigError(
                f"{flag} {value} is for text, but {tokens} is tokenised already; drop {flag}"
            )


def _joined(
    config: DataConfig, tokenizer: Tokenizer, parts: Sequence[_Part], left_out: Sequence[Path]
) -> Corpus:
    """Return the corpus of what is trained on, and of what is kept for validation if that is not a
    part of it.

    Raises:
        ConfigError: windows are to respect documents, of which nothing says where they end.
    """
    marks = _marks(config, tokenizer) if config.window == DOCUMENT else None
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
        marks=marks,
        description=f"{about}, {size:,} tokens, vocabulary {tokenizer.vocab_size:,}"
        + _left_out(left_out),
    )


def _marks(config: DataConfig, tokenizer: Tokenizer) -> Marks:
    """Return by which tokens documents are told.

    Raises:
        ConfigError: nothing says which.
        DataError: what is said cannot be told in tokens.
    """
    if config.document_separator is None and tokenizer.end_of_text is None:
        raise ConfigError(
            f"--window {config.window} has to know where documents end: give --document-separator "
            "what stands between them and nowhere else (of tokens, their ids), or take a tokenizer "
            "with an end of text"
        )
    end = separator_of(tokenizer, config.document_separator)
    if not end.size:
        raise ConfigError(
            f"--window {config.window} needs a --document-separator that is not empty"
        )
    prompt = config.prompt_separator
    return Marks(end, None if prompt is None else tokenizer.encode(prompt))


def _left_out(files: Sequence[Path], shown: int = 3) -> str:
    """Return the end of a line on a corpus of which this was left out."""
    if not files:
        return ""
    more = f" and {len(files) - shown} more" if len(files) > shown else ""
    return f" (left out: {', '.join(map(printable, files[:shown]))}{more})"
