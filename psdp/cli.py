"""From the command line and ``--config FILE.toml`` to the settings that were given."""

from __future__ import annotations

import argparse
import re
import tomllib
from collections.abc import Sequence
from dataclasses import Field
from pathlib import Path
from typing import Any, NoReturn

from psdp import __version__
from psdp.config import Config, base_type, flag_of, help_of, settings
from psdp.errors import ConfigError

_TITLES = {
    "model": "model",
    "data": "corpus",
    "optim": "optimizer (runs on the servers)",
    "run": "run",
}


class Parser(argparse.ArgumentParser):
    """Raises ConfigError where argparse would print its usage and exit."""

    def error(self, message: str) -> NoReturn:
        raise ConfigError(f"{message}; see {self.prog} --help")


def given_settings(argv: Sequence[str]) -> dict[str, Any]:
    """Return ``{field name: value}`` of what was said explicitly; flags win over the file.

    Raises:
        ConfigError: an unknown flag or key, or a value that cannot be read.
    """
    flags = vars(build_parser().parse_args(argv))
    file = flags.pop("config", None)
    given = {} if file is None else _settings_in(Path(file))
    given.update(flags)
    Config.from_flat(given)  # names and types
    return given


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of ``python -m psdp.worker``, made from the fields of the settings."""
    parser = Parser(
        prog="python -m psdp.worker",
        description="Train a Transformer language model with an MPI parameter server. Start it "
        "under an MPI launcher with one rank per server (--servers, default 1) and one per worker.",
        epilog="example: mpirun -n 3 python -m psdp.worker --max-steps 2000 --corpus my/texts/ "
        "--out runs/mine",
        argument_default=argparse.SUPPRESS,
        allow_abbrev=False,
    )
    # argparse takes "-1e-3" for a flag and would say that a value is missing.
    parser._negative_number_matcher = re.compile(r"-(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?$")
    parser.add_argument("--version", action="version", version=f"psdp {__version__}")
    parser.add_argument(
        "--config", metavar="FILE.toml", help="settings by name (as below); flags win over it"
    )
    groups = {name: parser.add_argument_group(title) for name, title in _TITLES.items()}
    for group, field in settings():
        groups[group].add_argument(flag_of(field.name), **_argument(field))
    return parser


def _argument(field: Field[Any]) -> dict[str, Any]:
    argument: dict[str, Any] = {"dest": field.name, "help": help_of(field).replace("%", "%%")}
    kind = base_type(field)
    if kind == "bool":
        # A switch that is off by default needs no way to be switched off, except in a file.
        argument["action"] = argparse.BooleanOptionalAction if field.default else "store_true"
        return argument
    if kind == "tuple[str, ...]":
        argument |= {"nargs": "+", "action": "extend"}
    else:
        argument["type"] = {"int": int, "float": float, "str": str}[kind]
    if field.metadata["choices"]:
        argument["choices"] = field.metadata["choices"]
    elif field.metadata["metavar"]:
        argument["metavar"] = field.metadata["metavar"]
    else:
        argument["metavar"] = {"int": "N", "float": "X"}.get(kind, kind.upper())
    return argument


def read_toml(path: Path, called: str) -> dict[str, Any]:
    """Return what a TOML file holds.

    Args:
        called: how an error names the file.

    Raises:
        ConfigError: it cannot be read, or is not TOML.
    """
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"{called}: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{called} is not TOML: {error}") from error


def _settings_in(path: Path) -> dict[str, Any]:
    content = read_toml(path, f"--config {path}")
    topics = {field.name: topic for topic, field in settings()}
    values: dict[str, Any] = {}
    for key, value in content.items():
        # The settings may stand under [model], [data], [optim], [run], or plainly.
        topic = key if key in _TITLES and isinstance(value, dict) else None
        for spelling, entry in (value if topic else {key: value}).items():
            name = spelling.replace("-", "_")
            if topic not in (None, topics.get(name, topic)):
                raise ConfigError(f"--config {path}: {spelling} belongs to [{topics[name]}]")
            if name in values:
                raise ConfigError(f"--config {path}: {spelling} is given twice")
            values[name] = [entry] if (name, type(entry)) == ("corpus", str) else entry
    try:
        Config.from_flat(values)
    except ConfigError as error:
        raise ConfigError(f"--config {path}: {error}") from error
    return values
