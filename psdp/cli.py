"""From the command line and ``--config FILE.toml`` to the settings that were given."""

from __future__ import annotations

import argparse
import codecs
import re
from collections.abc import Mapping, Sequence
from dataclasses import Field, dataclass
from pathlib import Path
from typing import Any

from psdp.arguments import Parser, whole
from psdp.config import Config, base_type, flag_of, help_of, settings
from psdp.config.presets import PRESETS
from psdp.errors import ConfigError
from psdp.terminal import at_home, path_of

_TITLES = {
    "model": "model",
    "data": "corpus",
    "optim": "optimizer (runs on the servers)",
    "run": "run",
}


@dataclass(frozen=True)
class CommandLine:
    """What a program that trains is called, and takes.

    Attributes:
        program: how it is started.
        description, example: for ``--help``.
        settings: that have a meaning in it; None: all.
        defaults: of settings, where the program has some of its own. A run that is resumed or
            replayed has those that it had.
        helps: what a setting does, where it is not what its field says.
    """

    program: str
    description: str
    example: str
    settings: frozenset[str] | None
    defaults: Mapping[str, Any]
    helps: Mapping[str, str]

    def takes(self, name: str) -> bool:
        """Say whether a setting has a meaning."""
        return self.settings is None or name in self.settings


WORKER = CommandLine(
    program="python -m psdp.worker",
    description="Train a Transformer language model with an MPI parameter server.",
    example="mpirun -n 3 python -m psdp.worker --max-steps 2000 --corpus my/texts/ --out runs/mine",
    settings=None,
    defaults={},
    helps={},
)


def given_settings(argv: Sequence[str], line: CommandLine = WORKER) -> dict[str, Any]:
    """Return ``{field name: value}`` of what was said explicitly: by flags, which win over the
    file, which wins over the program.

    Raises:
        ConfigError: an unknown flag or key, or a value that cannot be read.
    """
    flags = vars(build_parser(line).parse_args(argv))
    file = flags.pop("config", None)
    given = {} if file is None else _settings_in(path_of(file, "--config"), line)
    given.update(flags)
    if not given.keys() & {"resume", "replay"}:
        given = {**line.defaults, **given}
    Config.from_flat(given)  # names and types
    return with_home_folders(given)


def with_home_folders(given: Mapping[str, Any]) -> dict[str, Any]:
    """Return settings in whose paths home folders stand in place of ``~``.

    Raises:
        ConfigError: a path cannot be meant here.
    """

    def path(value: Any, flag: str) -> Any:
        if isinstance(value, list | tuple):
            return [path(one, flag) for one in value]
        return at_home(value, flag) if isinstance(value, str) else value

    kinds = {field.name: field.metadata["metavar"] for _, field in settings()}
    return {
        name: path(value, flag_of(name)) if kinds.get(name) in _OF_PATHS else value
        for name, value in given.items()
    }


_OF_PATHS = ("DIR", "PATH")


def build_parser(line: CommandLine = WORKER) -> argparse.ArgumentParser:
    """Return the parser of a program, made from the fields of the settings."""
    parser = Parser(
        prog=line.program,
        description=f"{line.description} Start it under an MPI launcher with one rank per server "
        "(--servers, default 1) and one per worker.",
        epilog=f"example: {line.example}",
        argument_default=argparse.SUPPRESS,
    )
    # argparse takes "-1e-3" for a flag and would say that a value is missing.
    parser._negative_number_matcher = re.compile(  # noqa: SLF001 (it has no public name)
        r"-(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?$"
    )
    parser.add_argument(
        "--config", metavar="FILE.toml", help="settings by name (as below); flags win over it"
    )
    groups = {name: parser.add_argument_group(title) for name, title in _TITLES.items()}
    for group, field in settings():
        if line.takes(field.name):
            groups[group].add_argument(flag_of(field.name), **_argument(field, line))
    return parser


def _argument(field: Field[Any], line: CommandLine) -> dict[str, Any]:
    text = help_of(field, line.helps.get(field.name), line.defaults.get(field.name))
    argument: dict[str, Any] = {"dest": field.name, "help": text.replace("%", "%%")}
    kind = base_type(field)
    if kind == "bool":
        # What nothing but a flag, or a file, switches on needs no flag to be switched off.
        on = field.default or any(preset.get(field.name) for preset in PRESETS.values())
        argument["action"] = argparse.BooleanOptionalAction if on else "store_true"
        return argument
    if kind == "tuple[str, ...]":
        argument |= {"nargs": "+", "action": "extend"}
    else:
        argument["type"] = {"int": whole, "float": float, "str": str}[kind]
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
    import tomllib  # few ranks read a file

    try:
        # Other systems put a byte-order mark in front, and end lines otherwise.
        content = tomllib.loads(path.read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise ConfigError(f"{called}: {error.strerror}") from error
    except (ValueError, RecursionError) as error:  # numbers of thousands of digits among them
        raw = error.object if isinstance(error, UnicodeDecodeError) else b""
        if raw.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
            raise ConfigError(f"{called} is UTF-16, TOML is UTF-8; save it as that") from error
        raise ConfigError(f"{called} is not TOML: {error}") from error
    for key, value in content.items():
        if _is_beyond_64_bits(value):
            raise ConfigError(f"{called}: {key} is beyond 64 bits, and no number of TOML is")
    return content


def _is_beyond_64_bits(value: Any) -> bool:
    """Say whether a value of a file is such a number, or holds one; Python reads them."""
    if isinstance(value, list | dict):
        inside = value.values() if isinstance(value, dict) else value
        return any(map(_is_beyond_64_bits, inside))
    return isinstance(value, int) and value.bit_length() > 63


def _settings_in(path: Path, line: CommandLine) -> dict[str, Any]:
    content = read_toml(path, f"--config {path}")
    topics = {field.name: topic for topic, field in settings()}
    several = {field.name for _, field in settings() if base_type(field) == "tuple[str, ...]"}
    values: dict[str, Any] = {}
    for key, value in content.items():
        # The settings may stand under [model], [data], [optim], [run], or plainly.
        topic = key if key in _TITLES and isinstance(value, dict) else None
        for spelling, entry in (value if topic else {key: value}).items():
            name = spelling.replace("-", "_")
            if topic not in (None, topics.get(name, topic)):
                raise ConfigError(f"--config {path}: {spelling} belongs to [{topics[name]}]")
            if not line.takes(name):
                raise ConfigError(f"--config {path}: {spelling} has no meaning for {line.program}")
            if name in values:
                raise ConfigError(f"--config {path}: {spelling} is given twice")
            lone = name in several and isinstance(entry, str)
            values[name] = [entry] if lone else entry
    try:
        Config.from_flat(values)
    except ConfigError as error:
        raise ConfigError(f"--config {path}: {error}") from error
    return values
