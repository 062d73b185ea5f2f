"""Settings of the corpus."""

from __future__ import annotations

from dataclasses import dataclass

from psdp.fields import setting

PACKED, DOCUMENT = "packed", "document"
"""How windows are cut."""

TOKEN_DTYPES = ("uint8", "uint16", "uint32", "uint64", "int32", "int64")
"""Of raw files of tokens, all little-endian."""


@dataclass(frozen=True)
class DataConfig:
    """The corpus and how it reaches the workers."""

    corpus: tuple[str, ...] = setting(
        ("stdlib",),
        "'stdlib' (the Python standard library's own source), or files of text (.jsonl, .parquet, "
        ".gz, .zst among them), or of tokens (.npy, .bin), or folders of them",
        metavar="PATH",
    )
    val_corpus: tuple[str, ...] | None = setting(
        None,
        "the same for validation (default the last part of the corpus, or, in a folder of tokens, "
        "the files that are called val)",
        metavar="PATH",
    )
    text_field: str = setting(
        "text", "field of JSON lines, or column of Parquet, that is the text", metavar="NAME"
    )
    tokenizer: str = setting(
        "byte",
        "byte, char, bpe (subwords, learnt from the corpus), or subwords as Hugging Face keeps "
        "them: a tokenizer.json, or a folder with one",
        metavar="PATH",
    )
    vocab_size: int | None = setting(
        None,
        "tokens in the vocabulary, of a tokenised corpus or of --tokenizer bpe (default 256, what "
        "its account says, or 4096)",
        low=1,
    )
    document_separator: str | None = setting(
        None,
        "text between two files or records (default the tokenizer's end of text, or a newline)",
        metavar="TEXT",
    )
    prompt_field: str | None = setting(
        None,
        "field of JSON lines, or column of Parquet, that goes before the text, with "
        "--prompt-separator between them",
        metavar="NAME",
    )
    prompt_separator: str | None = setting(
        None,
        "text that ends the prompt of a document: nothing up to it counts, with --window document",
        metavar="TEXT",
    )
    token_dtype: str | None = setting(
        None, "type of a .bin without a header (default uint16)", choices=TOKEN_DTYPES
    )
    clean: str = setting(
        "none",
        "basic: control characters and runs of blanks; html: tags too",
        choices=("none", "basic", "html"),
    )
    val_fraction: float = setting(
        0.1, "last part of the corpus, kept for validation", low=0, below=1
    )
    window: str = setting(
        PACKED,
        "packed: windows lie side by side and run across documents; document: each begins with a "
        "document, or goes on with a long one, and what follows its end does not count",
        choices=(PACKED, DOCUMENT),
    )
    partition: str = setting(
        "random",
        "how windows of the corpus are dealt to workers",
        choices=("contiguous", "random", "hash"),
    )
