"""Which settings make runs repetitions of one another, rows of one scenario, or neither."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import Any, Protocol

from psdp.config import Config, settings
from psdp.errors import ConfigError
from psdp.modes import MODES, ONLY_WITH

NOT_COMPARED = {"seed", "out", "resume", "record", "quiet", "keep_checkpoints"}
"""Settings in which repetitions of a run may differ."""

CONDITIONS = {"straggler", "jitter", "link_mbps", "slow_link"}
SETUP = {
    *{field.name for topic, field in settings() if topic in ("model", "data")},
    *("batch_size", "grad_accum", "threads", "device", "kernels", "precision", "dtype"),
}
"""Settings that make runs incomparable, beside the conditions: another task or another machine."""

OF_MODE = {"mode", "balance", "wire_dtype"}.union(*(mode.settings for mode in MODES.values()))
"""Settings whose meaning or default is the mode's."""


def pace_of(s: Mapping[str, Any]) -> tuple[Any, ...]:
    """Return what of these settings bears on how long steps take, on the same machines."""
    return tuple(hashable(s.get(name)) for name in sorted(OF_MODE | {"servers"}))


def is_plain(s: Mapping[str, Any]) -> bool:
    """Say whether nothing changes what its mode means."""
    return not s["backup_workers"] and not s["overlap"] and s["balance"] == "static"


class Compared(Protocol):
    """What is known of a row that is compared.

    Attributes:
        follows: settings that it would have without a word of them (:func:`following`).
    """

    @property
    def mode(self) -> str: ...

    @property
    def settings(self) -> Mapping[str, Any]: ...

    @property
    def follows(self) -> Sequence[str]: ...

    @property
    def circumstances(self) -> Mapping[str, str]: ...


def following(s: Mapping[str, Any]) -> tuple[str, ...]:
    """Return which settings of a run, resolved, only follow from its mode or from other settings:
    they would be the same without a word of them."""
    return tuple(
        field.name
        for _, field in settings()
        if field.name in ONLY_WITH or field.default is None
        if _follows(s, field.name)
    )


def _follows(s: Mapping[str, Any], name: str) -> bool:
    silent = {key: value for key, value in s.items() if key != name}
    try:
        return bool(Config.from_flat(silent).resolved().flat()[name] == s[name])
    except ConfigError:
        return False  # something contradicts what would be there


def differing(rows: Sequence[Compared]) -> list[str]:
    """Return the settings, defaults included, and the circumstances in which any two of some rows
    differ beside their modes, in the order in which settings are told.

    A setting may have a meaning in one of two rows alone. What follows from the mode, or from
    settings that differ themselves, is no difference of its own.
    """
    names = [field.name for _, field in settings()]
    compared = [name for name in names if name not in NOT_COMPARED | CONDITIONS | {"mode"}]
    found = [name for name in compared if any(_differ(name, *two) for two in combinations(rows, 2))]
    told = dict.fromkeys(name for row in rows for name in row.circumstances)
    return found + [name for name in told if _vary([row.circumstances.get(name) for row in rows])]


def _differ(name: str, one: Compared, other: Compared) -> bool:
    meant = [row for row in (one, other) if has_meaning(name, row.mode)]
    if len(meant) == 2 and not _vary([row.settings.get(name) for row in meant]):
        return False
    return not all(name in row.follows for row in meant)


def of_modes(rows: Sequence[Compared]) -> list[str]:
    """Return the settings that have a meaning in some of the rows' modes alone, and are not there
    what they would be without a word."""
    return [
        name
        for _, field in settings()
        if (name := field.name) in ONLY_WITH
        and not all(has_meaning(name, row.mode) for row in rows)
        and any(
            has_meaning(name, row.mode) and row.settings.get(name) not in (None, field.default)
            for row in rows
        )
    ]


def has_meaning(name: str, mode: str) -> bool:
    """Say whether a setting has a meaning in a mode."""
    return name not in ONLY_WITH or mode in ONLY_WITH[name]


def value_in(row: Compared, name: str) -> str | None:
    """Return what a row has of a setting or a circumstance, in words; None where it has no
    meaning."""
    if name in row.circumstances:
        return row.circumstances[name]
    return shown(row.settings.get(name)) if has_meaning(name, row.mode) else None


def shown(value: Any) -> str:
    """Return a setting's value in words."""
    match value:
        case None:
            return "none"
        case bool():
            return "yes" if value else "no"
        case list() | tuple():
            return " ".join(map(str, value))
        case float():
            return f"{value:g}"
    return str(value)


def _vary(values: Sequence[Any]) -> bool:
    return len({hashable(value) for value in values}) > 1


def hashable(value: Any) -> Any:
    """Return a setting's value as a key may hold it."""
    return tuple(value) if isinstance(value, list) else value


def said(name: str, value: Any = "") -> str:
    """Return a setting as a title or a label says it, with its value if that is given."""
    return f"{name.replace('_', '-')} {shown(value)}".rstrip()
