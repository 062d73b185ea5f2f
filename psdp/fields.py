"""One setting, a field of a dataclass: what it tells of itself, and which values it takes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import Field, field
from typing import Any

from psdp.errors import ConfigError
from psdp.terminal import shown

AUTO = "auto"
"""Of a device, kernels or a transport: the best that there is. (A mode has the same name.)"""


def setting(
    default: Any,
    help: str,
    *,
    choices: tuple[str, ...] = (),
    low: float | None = None,
    below: float | None = None,
    metavar: str | None = None,
    formerly: Mapping[str, str] | None = None,
) -> Any:
    """Return a field with what the parser and the validator need: bounds are low <= x < below.

    Args:
        formerly: what values were called by earlier versions, whose runs are read as ever.
    """
    told = {"help": help, "choices": choices, "metavar": metavar, "formerly": formerly or {}}
    return field(default=default, metadata={**told, "low": low, "below": below})


def flag_of(name: str) -> str:
    """Return the command-line spelling of a field name."""
    return "--" + name.replace("_", "-")


def base_type(f: Field[Any]) -> str:
    """Return the field's plain type as text: ``int | None`` is ``int``."""
    return str(f.type).removesuffix(" | None")


def plain(f: Field[Any], value: Any) -> Any:
    """Return a value, as a file or a flag has it, in the form that the dataclasses hold.

    Raises:
        ConfigError: it has the wrong type.
    """
    _check_type(f, value)
    if isinstance(value, list):
        return tuple(value)
    if isinstance(value, str):
        return f.metadata["formerly"].get(value, value)
    if value is not None and base_type(f) == "float":
        try:
            return float(value)
        except OverflowError as error:
            raise ConfigError(f"{flag_of(f.name)} is beyond a float") from error
    return value


def _check_type(f: Field[Any], value: Any) -> None:
    expected = base_type(f)
    if value is None and str(f.type).endswith("| None"):
        return
    good = {
        "int": isinstance(value, int) and not isinstance(value, bool),
        "float": isinstance(value, int | float) and not isinstance(value, bool),
        "bool": isinstance(value, bool),
        "str": isinstance(value, str),
        "tuple[str, ...]": isinstance(value, tuple | list)
        and (len(value) > 0 or f.default == ())
        and all(isinstance(item, str) for item in value),
    }[expected]
    if not good:
        kind = "paths" if f.metadata["metavar"] == "PATH" else "names"
        expected = {"tuple[str, ...]": f"a list of {kind}"}.get(expected, expected)
        raise ConfigError(f"{flag_of(f.name)} expects {expected}, got {shown(value)}")


def check_bounds(f: Field[Any], value: Any) -> None:
    """
    Raises:
        ConfigError: the value is none that this setting takes.
    """
    if value is None:
        return
    flag, limits = flag_of(f.name), f.metadata
    if isinstance(value, int) and value >= 1 << 63:
        raise ConfigError(f"{flag} must be below 2^63, got a number of {value.bit_length()} bits")
    if limits["choices"] and value not in limits["choices"]:
        raise ConfigError(
            f"{flag} expects one of {', '.join(limits['choices'])}, got {shown(value)}"
        )
    # Written so that NaN fails every bound.
    if limits["low"] is not None and not value >= limits["low"]:
        raise ConfigError(f"{flag} must be at least {limits['low']}, got {value}")
    if limits["below"] is not None and not value < limits["below"]:
        raise ConfigError(f"{flag} must be below {limits['below']}, got {value}")
    if value == "":
        raise ConfigError(f"{flag} is empty; name a folder, or drop it")
    if isinstance(value, float) and value == float("inf"):
        raise ConfigError(f"{flag} must be finite, got {value}")
