"""``python -m psdp.export RUN --to hf DIR`` or ``--to gguf FILE``: a model for other programs.

One process and no MPI.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from psdp.arguments import Parser
from psdp.checkpoint import Manifest, read_manifest, say_which_weights
from psdp.errors import ConfigError
from psdp.generation import chosen_checkpoint, identity_of, parameters_of
from psdp.gguf import write_gguf
from psdp.huggingface import Ending, write_folder
from psdp.terminal import at_home, path_of, run_program


def main(argv: Sequence[str] | None = None) -> int:
    """Write the model and say where; return the exit status."""

    def work() -> int:
        options = parse(sys.argv[1:] if argv is None else argv)
        with chosen_checkpoint(options.run, best=options.best, tell=tell) as checkpoint:
            manifest = read_manifest(checkpoint)
            say_which_weights(manifest, tell, raw=options.raw_weights)
            name = KINDS[options.kind](manifest, options.out, options.raw_weights)
            print(f"{options.out}: {name} with the weights of {options.run} ({checkpoint.name})")
        return 0

    return run_program("psdp", work)


def tell(text: object) -> None:
    """Print a line on stderr."""
    print(f"psdp: {text}", file=sys.stderr)


def to_hugging_face(manifest: Manifest, out: Path, raw: bool) -> str:
    """Write the folder of a checkpoint's model that transformers reads; return its class there.

    Raises:
        CheckpointError: it cannot be read, or nothing can be written.
        ConfigError: there is no counterpart.
    """
    config, tokenizer = identity_of(manifest)
    table, weights = parameters_of(manifest, config, tokenizer.vocab_size, raw=raw)
    end = tokenizer.end_of_text
    return write_folder(
        out,
        config.model,
        table,
        weights,
        tokenizer.vocab_size,
        tokenizer=tokenizer.files(),
        ending=None if end is None else Ending(end, tokenizer.decode([end])),
    )


def to_gguf(manifest: Manifest, out: Path, raw: bool) -> str:
    """Write the file of a checkpoint's model that llama.cpp reads; return its architecture there.

    Raises:
        CheckpointError: it cannot be read, or nothing can be written.
        ConfigError: the gguf package is not installed, or there is no counterpart.
    """
    config, tokenizer = identity_of(manifest)
    parameters = parameters_of(manifest, config, tokenizer.vocab_size, raw=raw)
    return write_gguf(out, config.model, *parameters, tokenizer)


KINDS = {"hf": to_hugging_face, "gguf": to_gguf}
"""What ``--to`` may say."""


def parse(argv: Sequence[str]) -> argparse.Namespace:
    """Return the options.

    Raises:
        ConfigError: an unknown flag, or a value that cannot be.
        SystemExit: ``--help``.
    """
    parser = Parser(
        prog="python -m psdp.export",
        description="Write a trained model for other programs. Needs no MPI.",
        epilog="example: python -m psdp.export runs/mine --to hf my/model",
    )
    parser.add_argument(
        "run",
        help="run folder, of which the latest checkpoint that is whole is taken, folder of a "
        "checkpoint, or URL of copies",
        metavar="RUN",
    )
    parser.add_argument(
        "--to",
        help="hf, and the folder to make: config.json, model.safetensors and the tokenizer, as "
        "transformers reads them; or gguf, and the file to make, as llama.cpp does",
        nargs=2,
        required=True,
        metavar=("KIND", "OUT"),
    )
    parser.add_choice_of_weights()
    options = parser.parse_args(argv)
    options.kind, out = options.to
    if options.kind not in KINDS:
        raise ConfigError(f"--to {options.kind}: expected hf and a folder, or gguf and a file")
    options.run = at_home(options.run, "RUN")
    options.out = path_of(out, f"--to {options.kind}")
    return options


if __name__ == "__main__":
    sys.exit(main())
