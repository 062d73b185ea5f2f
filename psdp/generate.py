"""``python -m psdp.generate --checkpoint runs/mine``: let a trained model go on with a text.

One process and no MPI. On stdout there is the prompt, what the model makes of it as it is sampled,
and a newline at the end; nothing else. Of several texts each is there so, with a line between them,
or in a line of JSON.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from psdp.arguments import Parser, whole
from psdp.backend.threads import fair_share, limit_blas
from psdp.checkpoint import read_manifest, say_which_weights
from psdp.cores import cpu_quota, own_cores
from psdp.data.formats import read_documents
from psdp.data.formats.fields import Fields
from psdp.data.tokenizer import Tokenizer
from psdp.errors import ConfigError, DataError, PsdpError
from psdp.fields import AUTO, flag_of
from psdp.generation import Sampling, chosen_checkpoint, continuations, load_model
from psdp.nn.models import Sampler
from psdp.terminal import at_home, nobody_reads, show_any_text

MOST_THREADS = 1024
"""That can be asked for; beyond any machine's, and as many as a rank may have."""

BETWEEN = "---------------\n"
"""Between two texts."""

RECORDS = frozenset({".jsonl", ".ndjson", ".parquet"})
"""Endings of files whose records have a prompt each."""


@dataclass(frozen=True)
class Options:
    """What the command line asks for."""

    checkpoint: str
    best: bool
    raw_weights: bool
    prompt: str | None
    prompts: str | None
    text_field: str
    num_samples: int
    json: bool
    tokens: int
    sampling: Sampling
    seed: int | None
    stop: str | None
    device: str
    threads: int


def main(argv: Sequence[str] | None = None) -> int:
    """Write the text to stdout; return the exit status."""
    show_any_text("replace")
    try:
        options = parse(sys.argv[1:] if argv is None else argv)
        threads = options.threads or fair_share(own_cores(), [own_cores()], cpu_quota())
        limit_blas(threads)
        prompts = prompts_of(options)
        with chosen_checkpoint(options.checkpoint, best=options.best, tell=tell) as folder:
            raw = options.raw_weights
            say_which_weights(read_manifest(folder), tell, raw=raw)
            tokenizer, decoder = load_model(folder, options.device, threads, raw=raw)
        for prompt in prompts:
            tokenizer.encode(prompt)  # what is wrong with one is told before a word is said
        return write(texts(options, tokenizer, decoder, prompts))
    except PsdpError as error:
        tell(error)
        return error.exit_code
    except KeyboardInterrupt:
        return 128 + signal.SIGINT


def texts(
    options: Options, tokenizer: Tokenizer, sampler: Sampler, prompts: Sequence[str]
) -> Iterator[str]:
    """Yield what is written of all texts, piece by piece.

    A text is drawn by the seed, the number of its prompt and its own, whatever else is asked for.

    Raises:
        NumericsError: the model's logits are not finite.
    """
    entropy: Any = np.random.SeedSequence(options.seed).entropy  # the seed itself, if there is one
    samples = range(options.num_samples)
    for nth, prompt in enumerate(prompts):
        rngs = [np.random.default_rng([entropy, nth, sample]) for sample in samples]
        how = options.tokens, options.sampling, rngs, options.stop
        for sample, pieces in enumerate(continuations(tokenizer, sampler, prompt, *how)):
            if options.json:
                _, *added = pieces  # the prompt comes first
                told = {"prompt": prompt, "sample": sample, "text": "".join(added)}
                yield json.dumps(told, ensure_ascii=False) + "\n"
                continue
            if nth or sample:
                yield BETWEEN
            yield from pieces
            yield "\n"


def prompts_of(options: Options) -> list[str]:
    """Return the prompts that are asked for.

    Raises:
        DataError: they cannot be read, or are no text, or there is none.
    """
    if options.prompts is None:
        prompt = options.prompt or ""
        return [read_stdin() if prompt == "-" else as_typed(prompt)]
    file = Path(options.prompts)
    documents = [raw.decode("utf-8") for raw in read_documents(file, Fields(options.text_field))]
    if RECORDS.isdisjoint(file.suffixes):
        documents = [line for text in documents for line in text.splitlines() if line.strip()]
    if not documents:
        raise DataError(f"--prompts {file} holds no prompt; it is to have one a line")
    return documents


def tell(text: object) -> None:
    """Print a line on stderr."""
    print(f"psdp: {text}", file=sys.stderr)


def parse(argv: Sequence[str]) -> Options:
    """Return what the command line asks for.

    Raises:
        ConfigError: a flag is unknown, missing or out of range.
        SystemExit: ``--help``.
    """
    given = vars(build_parser().parse_args(argv))
    sampling = Sampling(*(given.pop(name) for name in ("temperature", "top_k", "top_p")))
    for name, least in (("tokens", 0), ("seed", 0), ("threads", 0), ("num_samples", 1)):
        if given[name] is not None and given[name] < least:
            flag = flag_of(name)
            raise ConfigError(f"{flag} must be at least {least}, got {given[name]}")
    if given["prompt"] is not None and given["prompts"] is not None:
        raise ConfigError("--prompt is one and --prompts names a file of them; give one of the two")
    if given["prompts"] is not None:
        given["prompts"] = at_home(given["prompts"], "--prompts")
    if given["threads"] > MOST_THREADS:
        raise ConfigError(f"--threads must be at most {MOST_THREADS}, got {given['threads']}")
    given["checkpoint"] = at_home(given["checkpoint"], "--checkpoint")
    return Options(sampling=sampling, **given)


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of ``python -m psdp.generate``."""
    parser = Parser(
        prog="python -m psdp.generate",
        description="Let a trained model go on with a text. Needs no MPI. The model sees at most "
        "its block size: of a longer prompt the end, and whenever that many tokens are full, it "
        "forgets the older half.",
        epilog="example: python -m psdp.generate --checkpoint runs/mine --prompt 'def ' "
        "--tokens 200 --temperature 0.8 --top-k 40",
    )

    def add(flag: str, text: str, **argument: Any) -> None:
        parser.add_argument(flag, help=text, **argument)

    add(
        "--checkpoint",
        "run folder, of which the latest checkpoint that is whole is taken, folder of a "
        "checkpoint, or URL of copies",
        required=True,
        metavar="DIR",
    )
    parser.add_choice_of_weights()
    _add_prompts(add)
    add(
        "--json",
        "write each text as a line of JSON: prompt, sample (its number) and text (what was added)",
        action="store_true",
    )
    add("--tokens", "tokens to add (default %(default)s)", type=whole, default=200, metavar="N")
    add(
        "--stop",
        "end before this text ('' never; default: at the token that ends a text, where the "
        "vocabulary has one)",
        metavar="TEXT",
    )
    _add_sampling(add)
    add(
        "--seed",
        "the same seed gives the same texts, whatever the number of samples (default: others every "
        "time)",
        type=whole,
        metavar="N",
    )
    add("--device", "where to compute (default cpu)", choices=(AUTO, "cpu", "gpu"), default="cpu")
    add("--threads", "threads (default 0: all cores)", type=whole, default=0, metavar="N")
    return parser


def _add_prompts(add: Callable[..., None]) -> None:
    """Add the flags that say what is gone on with, and how often."""
    add(
        "--prompt",
        "text to go on with, or - to read it from stdin (default none: the model starts after the "
        "end of a text, or a newline, or after token 0 where its vocabulary has neither)",
        metavar="TEXT",
    )
    add(
        "--prompts",
        "file of prompts, one a line; or with records, as JSON lines or Parquet, one each",
        metavar="FILE",
    )
    add(
        "--text-field",
        "of such a record, that is its prompt (default %(default)s)",
        default="prompt",
        metavar="NAME",
    )
    add(
        "--num-samples",
        "texts of each prompt (default %(default)s)",
        type=whole,
        default=1,
        metavar="N",
    )


def _add_sampling(add: Callable[..., None]) -> None:
    """Add the flags that say how a token is chosen."""
    add(
        "--temperature",
        "randomness: 1 is the model's own, 0 takes the likeliest token always (default "
        "%(default)s)",
        type=float,
        default=Sampling.temperature,
        metavar="X",
    )
    add(
        "--top-k",
        "choose among the N likeliest tokens only (default 0: all)",
        type=whole,
        default=Sampling.top_k,
        metavar="N",
    )
    add(
        "--top-p",
        "of these, the fewest likeliest whose probabilities add up to X (default 1: all)",
        type=float,
        default=Sampling.top_p,
        metavar="X",
    )


def as_typed(prompt: str) -> str:
    """Return a prompt of the command line; bytes that this locale does not know are UTF-8.

    Raises:
        DataError: they are not.
    """
    try:
        prompt.encode("utf-8")
    except UnicodeEncodeError:
        return _text_of(os.fsencode(prompt), "--prompt has no UTF-8 form")
    return prompt


def read_stdin() -> str:
    """Return the prompt that stdin holds, to its end.

    Raises:
        DataError: it cannot be read, or is not UTF-8.
    """
    if sys.stdin is None:
        raise DataError("--prompt - reads stdin, which is closed")
    try:
        return _text_of(sys.stdin.buffer.read(), "--prompt -: stdin is not UTF-8")
    except OSError as error:
        raise DataError(f"--prompt -: stdin cannot be read: {error.strerror}") from error


def _text_of(raw: bytes, complaint: str) -> str:
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError as error:
        raise DataError(
            f"{complaint}: byte 0x{raw[error.start]:02x} at offset {error.start} "
            f"({error.reason}); convert it (iconv -t UTF-8)"
        ) from None


def write(pieces: Iterator[str]) -> int:
    """Write each piece to stdout at once; return the exit status."""
    for piece in pieces:
        try:
            print(piece, end="", flush=True)
        except OSError as error:
            status = nobody_reads()
            if isinstance(error, BrokenPipeError):
                return status
            print(f"psdp: stdout cannot be written: {error.strerror}", file=sys.stderr)
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
