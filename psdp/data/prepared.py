"""Texts as tokens of subwords: made once on a host, and kept under what they are of."""

from __future__ import annotations

from collections.abc import Callable
from itertools import chain

from psdp.data.cache import alone, keep, kept_at
from psdp.data.subwords import SubwordTokenizer
from psdp.data.texts import Texts
from psdp.data.token_folder import ACCOUNT, TokenFolder, write_tokens
from psdp.data.tokenising import cut_at_lines, separator_of, tokens_of
from psdp.errors import DataError

Says = Callable[[str], object]


def learnt_tokenizer(texts: Texts, vocab_size: int, says: Says) -> SubwordTokenizer:
    """Return the tokenizer that is learnt from these texts; see :meth:`SubwordTokenizer.trained`.

    Raises:
        ConfigError: the library is not installed.
        DataError: nothing can be kept.
    """
    kept = kept_at("bpe", vocab_size, texts.digest)
    with alone(kept):
        if not kept.exists():
            says(f"learning {vocab_size:,} subwords from {texts.size / 1e6:.1f} MB of text")
            pieces = chain.from_iterable(map(cut_at_lines, texts.documents))
            keep(kept, SubwordTokenizer.trained(pieces, vocab_size).definition)
        return SubwordTokenizer.at(kept)


def tokenised(
    texts: Texts,
    tokenizer: SubwordTokenizer,
    separator: str | None,
    prompt_separator: str | None,
    says: Says,
) -> TokenFolder:
    """Return the tokens of these texts.

    Args:
        separator: between two of them.
        prompt_separator: that ends the prompts in them.

    Raises:
        DataError: nothing can be kept.
    """
    between = separator_of(tokenizer, separator)
    how = between.tolist(), prompt_separator
    kept = kept_at("tokens", tokenizer.to_json(), *how, texts.digest)
    with alone(kept):
        if not (kept / ACCOUNT).exists():
            says(f"tokenising {texts.size / 1e6:.1f} MB of text")
            rows = tokens_of(tokenizer, texts.documents, between, prompt_separator)
            try:
                write_tokens(kept, tokenizer, rows, text_bytes=[texts.size])
            except DataError:
                if not (kept / ACCOUNT).exists():  # of another host, on a disk that they share
                    raise
        return TokenFolder.read(kept)
