"""Texts as tokens of subwords: made once on a host, and kept in a cache under what they are of."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from psdp.data.subwords import SubwordTokenizer
from psdp.data.texts import Texts
from psdp.data.token_folder import ACCOUNT, TokenFolder, write_tokens
from psdp.data.tokenising import separator_of, tokens_of
from psdp.errors import DataError

Says = Callable[[str], object]


def learnt_tokenizer(texts: Texts, vocab_size: int, says: Says) -> SubwordTokenizer:
    """Return the tokenizer that is learnt from these texts; see :meth:`SubwordTokenizer.trained`.

    Raises:
        ConfigError: the library is not installed.
        DataError: the cache cannot be written.
    """
    key = _key("bpe", vocab_size, _sha256(texts))
    kept = _cache() / f"bpe-{key}.json"
    with _alone(kept):
        if not kept.exists():
            says(f"learning {vocab_size:,} subwords from {texts.size / 1e6:.1f} MB of text")
            decoded = (document.decode("utf-8") for document in texts.documents)
            made = SubwordTokenizer.trained(decoded, vocab_size)
            beside = kept.with_suffix(f".{os.getpid()}")
            beside.write_text(made.definition, encoding="utf-8")
            beside.replace(kept)
        return SubwordTokenizer.at(kept)


def tokenised(
    texts: Texts, tokenizer: SubwordTokenizer, separator: str | None, says: Says
) -> TokenFolder:
    """Return the tokens of these texts.

    Raises:
        DataError: the cache cannot be written.
    """
    between = separator_of(tokenizer, separator)
    key = _key(tokenizer.to_json(), between.tolist(), _sha256(texts))
    folder = _cache() / f"tokens-{key}"
    with _alone(folder):
        if not (folder / ACCOUNT).exists():
            says(f"tokenising {texts.size / 1e6:.1f} MB of text")
            rows = tokens_of(tokenizer, texts.documents, between)
            try:
                write_tokens(folder, tokenizer, rows, text_bytes=[texts.size])
            except DataError:
                if not (folder / ACCOUNT).exists():  # of another host, on a disk that they share
                    raise
        return TokenFolder.read(folder)


def _sha256(texts: Texts) -> str:
    digest = hashlib.sha256()
    for document in texts.documents:
        digest.update(b"%d," % len(document))
        digest.update(document)
    return digest.hexdigest()


def _key(*parts: object) -> str:
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:32]


def _cache() -> Path:
    base = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    return Path(base, "psdp")


@contextmanager
def _alone(kept: Path) -> Iterator[None]:
    """Let no other process of this host make the same meanwhile; who comes later finds it.

    Raises:
        DataError: the cache cannot be written.
    """
    try:
        kept.parent.mkdir(parents=True, exist_ok=True)
        with kept.with_suffix(".lock").open("w") as lock:
            with suppress(OSError):  # a file system without locks: both make it, and one is kept
                fcntl.flock(lock, fcntl.LOCK_EX)
            yield
    except OSError as error:
        raise DataError(
            f"{kept} cannot be written: {error.strerror}; set XDG_CACHE_HOME to a folder that can"
        ) from None
