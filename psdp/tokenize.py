"""``python -m psdp.tokenize IN... --out DIR``: a corpus as shards of tokens, with an account.

One process and no MPI. Files are read, cleaned and tokenised one at a time (of Parquet some rows),
and may be larger than the memory together; the library of subwords takes all cores.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator, Sequence
from itertools import chain
from typing import Any

from psdp.arguments import Parser, whole
from psdp.config import DataConfig, check_prompts
from psdp.data.chosen_tokenizer import BPE, BYTE, CHAR, LEARNT, check_size
from psdp.data.clean import cleaned
from psdp.data.files import find_files, size_of
from psdp.data.formats import holds_tokens
from psdp.data.formats.fields import Fields
from psdp.data.formats.text import pieces
from psdp.data.subwords import SubwordTokenizer
from psdp.data.texts import SEPARATOR, read_each
from psdp.data.token_folder import SHARD_TOKENS, TokenFolder, write_tokens
from psdp.data.tokenising import cut_at_lines, separator_of, tokens_of
from psdp.data.tokenizer import ByteTokenizer, CharTokenizer, Tokenizer
from psdp.errors import ConfigError, DataError
from psdp.terminal import path_of, run_program


def main(argv: Sequence[str] | None = None) -> int:
    """Make the folder and say what is in it; return the exit status."""

    def work() -> int:
        folder = make(parse(sys.argv[1:] if argv is None else argv))
        tokens, size = sum(folder.files.values()), folder.text_bytes
        print(
            f"{folder.folder}: {tokens:,} tokens in {len(folder.files):,} shard(s), of "
            f"{size / 1e6:.1f} MB of text ({size / tokens:.2f} bytes a token), vocabulary "
            f"{folder.tokenizer.vocab_size:,}"
        )
        return 0

    return run_program("psdp", work)


def make(options: argparse.Namespace) -> TokenFolder:
    """Return the folder of tokens that is asked for, made.

    Raises:
        ConfigError: the settings contradict one another, or a library is not installed.
        DataError: a text cannot be read, or the folder cannot be written.
    """
    documents = Documents(options)
    tokenizer = _tokenizer(options, documents)
    between = separator_of(tokenizer, options.document_separator)
    texts = documents.read("tokenising")
    rows = tokens_of(tokenizer, texts, between, options.prompt_separator)
    write_tokens(
        options.out, tokenizer, rows, text_bytes=documents.sizes, shard_tokens=options.shard_tokens
    )
    return TokenFolder.read(options.out)


def _tokenizer(options: argparse.Namespace, documents: Documents) -> Tokenizer:
    size = options.vocab_size
    match options.tokenizer:
        case "byte" | "char" if size is not None:
            raise ConfigError(
                f"--vocab-size {size} is for subwords; drop it, or give --tokenizer {BPE}"
            )
        case "byte":
            return ByteTokenizer()
        case "char":
            texts = map(pieces, documents.read("looking for characters"))
            found = (piece.decode("utf-8") for _, piece in chain.from_iterable(texts))
            between = options.document_separator or SEPARATOR
            return CharTokenizer.of_texts(chain(found, [between]))
        case "bpe":
            check_size(size)
            lines = chain.from_iterable(map(cut_at_lines, documents.read("learning subwords")))
            return SubwordTokenizer.trained(lines, size or LEARNT)
    return SubwordTokenizer.at(path_of(options.tokenizer, "--tokenizer"), size)


class Documents:
    """The documents of some files, which can be read more than once.

    Attributes:
        sizes: of those that were read, in bytes, the last time.
    """

    def __init__(self, options: argparse.Namespace) -> None:
        """
        Raises:
            DataError: a file cannot be found, or is one of tokens.
        """
        self._files = [file for path in options.inputs for file in find_files(path).files]
        tokens = next(filter(holds_tokens, self._files), None)
        if tokens is not None:
            raise DataError(f"{tokens} is tokenised already; give files of text")
        self._level, self._fields = options.clean, Fields.of(_settings(options))
        self.sizes: list[int] = []

    def read(self, what: str) -> Iterator[bytes]:
        """Yield all of them, and show how far that is on a terminal.

        Args:
            what: is done with them.

        Raises:
            ConfigError, DataError: see :func:`psdp.data.texts.read_each`.
        """
        from tqdm import tqdm  # which takes longer to load than most texts to read

        self.sizes.clear()
        sizes = [size_of(file) for file in self._files]
        done = 0
        with tqdm(desc=what, total=sum(sizes), unit="B", unit_scale=True, disable=None) as bar:
            for number, document in read_each(self._files, self._fields):
                bar.update(sum(sizes[done:number]))
                done = number
                text = cleaned(document, self._level)
                self.sizes.append(len(text))
                yield text
            bar.update(sum(sizes[done:]))


def _settings(options: argparse.Namespace) -> DataConfig:
    """Return what the options say that are settings of training, too."""
    names = "text_field", "prompt_field", "prompt_separator", "document_separator", "clean"
    return DataConfig(**{name: getattr(options, name) for name in names})


def parse(argv: Sequence[str]) -> argparse.Namespace:
    """Return the options.

    Raises:
        ConfigError: an unknown flag, or a value that cannot be.
        SystemExit: ``--help``.
    """
    parser = Parser(
        prog="python -m psdp.tokenize",
        description="Make shards of tokens of texts, with an account of them, by which training "
        "starts without reading them: give the folder to --corpus. The same texts make the same "
        "bytes.",
        epilog="example: python -m psdp.tokenize my/texts --out my/tokens --tokenizer bpe",
    )

    def add(flag: str, help: str, **how: Any) -> None:
        parser.add_argument(flag, help=help.replace("%", "%%"), **how)

    add("inputs", "files of text, or folders of them", nargs="+", metavar="IN")
    add("--out", "folder to make", required=True, metavar="DIR")
    add(
        "--tokenizer",
        f"{BYTE}, {CHAR}, {BPE} (subwords, learnt from the texts), or subwords as Hugging Face "
        f"keeps them: a tokenizer.json, or a folder with one (default {BPE})",
        default=BPE,
        metavar="PATH",
    )
    add("--vocab-size", f"subwords to learn (default {LEARNT})", type=whole, metavar="N")
    _add_reading(add)
    add(
        "--shard-tokens",
        f"tokens in a shard (default {SHARD_TOKENS})",
        type=whole,
        default=SHARD_TOKENS,
        metavar="N",
    )
    options = parser.parse_args(argv)
    if options.shard_tokens < 1:
        raise ConfigError(f"--shard-tokens must be at least 1, got {options.shard_tokens}")
    check_prompts(_settings(options))
    options.inputs = [path_of(path, "IN") for path in options.inputs]
    options.out = path_of(options.out, "--out")
    return options


def _add_reading(add: Callable[..., None]) -> None:
    """Add the flags of how texts are read, which training has too."""
    add(
        "--document-separator",
        "text between two files or records (default: the tokenizer's end of text, or a newline)",
        metavar="TEXT",
    )
    add(
        "--text-field",
        "field of JSON lines, or column of Parquet, that is the text (default text)",
        default=DataConfig.text_field,
        metavar="NAME",
    )
    add(
        "--prompt-field",
        "field of JSON lines, or column of Parquet, that goes before the text, with "
        "--prompt-separator between them",
        metavar="NAME",
    )
    add(
        "--prompt-separator",
        "text that ends the prompt of a document; to be said again in training",
        metavar="TEXT",
    )
    add(
        "--clean",
        "basic: control characters and runs of blanks; html: tags too (default none)",
        choices=("none", "basic", "html"),
        default=DataConfig.clean,
    )


if __name__ == "__main__":
    sys.exit(main())
