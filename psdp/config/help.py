"""What a person is told of a setting: what it does, in which modes, and its default in each."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import Field
from typing import Any

from psdp.config.model import OWN
from psdp.modes import MODES, ONLY_WITH, SERVED, Merge
from psdp.optim import OPTIMIZERS


def help_of(f: Field[Any], text: str | None = None, default: Any = None) -> str:
    """Return what a setting does, after the modes that it is for and before its default.

    Args:
        text: what it does, where that is not what it says itself.
        default: the one that a program gives it.
    """
    text = str(f.metadata["help"]) if text is None else text
    if f.name in ONLY_WITH and f.name not in SERVED:
        text = f"with --mode {either(ONLY_WITH[f.name])}: {text}"
    if f.name in OWN:
        text = f"with --architecture {OWN[f.name][0]}: {text}"
    if default is not None:
        return f"{re.sub(r' [(]default [^)]*[)]', '', text)} (default {default})"
    default = _default_of(f)
    return text if not default or "(default" in text else f"{text} (default {default})"


def _default_of(f: Field[Any]) -> str:
    """Return the default in words, by mode where it depends on that; "" where it goes without
    saying or its help says it."""
    if f.default is False:
        return ""
    if f.default is not None:
        return " ".join(f.default) if isinstance(f.default, tuple) else str(f.default)
    by_value: defaultdict[Any, list[str]] = defaultdict(list)
    merged: defaultdict[Any, list[str]] = defaultdict(list)
    rules: defaultdict[Any, list[str]] = defaultdict(list)
    for rule in OPTIMIZERS.values():
        if f.name in rule.defaults:
            rules[rule.defaults[f.name]].append(rule.name)
    for mode in MODES.values():
        value = mode.settings.get(f.name)
        if value is not None:
            by_value[value].append(mode.name)
        if f.name in mode.merged_each:
            merged[mode.merged_each[f.name]].append(mode.name)
    usual, *others = sorted(by_value, key=lambda value: -len(by_value[value])) or [""]
    said = [str(usual)]
    said += [f"with --mode {either(by_value[value])} {value}" for value in others]
    said += [f"with --merge {Merge.EACH} {value}" for value in merged]
    said += [f"with --optimizer {either(rules[value])} {value}" for value in rules]
    return ", ".join(filter(None, said))


def either(names: Sequence[str]) -> str:
    """Return these names as a sentence has them: a, b or c."""
    return " or ".join([*([", ".join(names[:-1])] if names[1:] else []), names[-1]])
