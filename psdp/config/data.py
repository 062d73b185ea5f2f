"""Settings of the corpus."""

from __future__ import annotations

from dataclasses import dataclass

from psdp.fields import setting


@dataclass(frozen=True)
class DataConfig:
    """The corpus and how it reaches the workers."""

    corpus: tuple[str, ...] = setting(
        ("stdlib",),
        "'stdlib' (the Python standard library's own source), or text files, folders, or one "
        "tokenised .npy/.bin",
        metavar="PATH",
    )
    tokenizer: str = setting("byte", "unit of text", choices=("byte", "char"))
    vocab_size: int | None = setting(
        None, "tokens in the vocabulary of a tokenised corpus (default 256)", low=1
    )
    clean: str = setting(
        "none",
        "basic: control characters and runs of blanks; html: tags too",
        choices=("none", "basic", "html"),
    )
    val_fraction: float = setting(
        0.1, "last part of the corpus, kept for validation", low=0, below=1
    )
    partition: str = setting(
        "random",
        "how windows of the corpus are dealt to workers",
        choices=("contiguous", "random", "hash"),
    )
