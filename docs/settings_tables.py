"""The tables of the settings page, from the fields of the settings and the rows of the modes."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import Field, fields
from typing import Any

from psdp.config import flag_of, help_of, settings
from psdp.config.presets import PRESETS
from psdp.modes import MODES, ONLY_WITH, Mode
from psdp.optim import OPTIMIZERS

TITLES = {"model": "Model", "data": "Corpus", "optim": "Optimizer", "run": "Run"}
DEFAULT = re.compile(r" ?\(default ([^()]*)\)")


def settings_tables() -> str:
    """Return Markdown: the settings of each topic, then what each optimizer, preset and mode
    chooses."""
    topics: dict[str, list[Field[Any]]] = {}
    for topic, field in settings():
        topics.setdefault(topic, []).append(field)
    lines = []
    for topic, members in topics.items():
        lines += [f"## {TITLES[topic]}", ""]
        lines += _table(("flag", "default", "what it is", "modes, if not all"), map(_row, members))
    lines += ["## By optimizer", "", "Defaults of what is left to the rule, and of its own.", ""]
    lines += _table(("`--optimizer`", *map(_code, map(flag_of, _LEFT)), "its own"), _by_rule())
    lines += ["## By preset", "", "What `--preset` says where a flag says nothing.", ""]
    lines += _table(("flag", *map(_code, PRESETS)), _by_preset())
    lines += ["## By mode", ""]
    lines += _table(("`--mode`", "what it does", *_TRAITS), map(_traits, MODES.values()))
    lines += [
        "Defaults that the mode chooses. Where nothing stands, the setting has no meaning and is "
        "refused.",
        "",
    ]
    lines += _table(("flag", *map(_code, MODES)), _by_mode())
    return "\n".join(lines)


def _row(field: Field[Any]) -> tuple[str, str, str, str]:
    said = DEFAULT.search(help_of(field)) if field.default is None else None
    default = _prose(said[1]) if said else _value(field.default)
    meaning = _prose(DEFAULT.sub("", field.metadata["help"]))
    if field.metadata["choices"]:
        meaning += f" ({', '.join(map(_code, field.metadata['choices']))})"
    modes = ", ".join(map(_code, ONLY_WITH.get(field.name, ())))
    return _code(flag_of(field.name)), default, meaning, modes


_TRAITS = ("in rounds", "workers have an optimizer", "exact", "survives the loss of a worker")


def _traits(mode: Mode) -> tuple[str, ...]:
    traits = (mode.in_rounds, mode.own_optimizer, mode.exact, mode.survives_loss)
    return _code(mode.name), _prose(mode.help), *("yes" if trait else "" for trait in traits)


_LEFT = ("lr", "weight_decay")


def _by_rule() -> Iterator[tuple[str, ...]]:
    for name, rule in OPTIMIZERS.items():
        own = (f for f in fields(rule.settings_type) if f.name not in ("weight_decay", "l1"))
        left = (_value(rule.defaults.get(setting)) for setting in _LEFT)
        yield _code(name), *left, ", ".join(_code(flag_of(f.name)) for f in own)


def _by_preset() -> Iterator[tuple[str, ...]]:
    for name in next(iter(PRESETS.values())):
        yield _code(flag_of(name)), *(_value(preset[name]) for preset in PRESETS.values())


def _by_mode() -> Iterator[tuple[str, ...]]:
    """Yield a row for each setting that some mode gives a default."""
    own = [mode.settings for mode in MODES.values()]
    for _, field in settings():
        if any(field.name in values for values in own):
            yield (
                _code(flag_of(field.name)),
                *(
                    _value(values[field.name], unsaid="see above") if field.name in values else ""
                    for values in own
                ),
            )


def _value(value: Any, unsaid: str = "none") -> str:
    match value:
        case None:
            return unsaid
        case bool():
            return "on" if value else "off"
        case tuple():
            return " ".join(map(_code, value))
        case _:
            return _code(str(value))


def _prose(text: str) -> str:
    """Return a help text as Markdown: what it takes for flags and HTML stands as it is."""
    return re.sub(r"--[a-z][a-z0-9-]*", lambda flag: _code(flag[0]), text.replace("<", "&lt;"))


def _code(text: str) -> str:
    return f"`{text}`"


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    lines = [head, ["---"] * len(head), *rows]
    escaped = ([cell.replace("|", r"\|") for cell in row] for row in lines)
    return [*(f"| {' | '.join(row)} |" for row in escaped), ""]
