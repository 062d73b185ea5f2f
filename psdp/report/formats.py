"""Numbers and lists as a reader wants them: few digits, units, intervals."""

from __future__ import annotations

import math
from collections.abc import Callable

from psdp.intervals import Difference
from psdp.report.measures import Stat

NONE = "–"
"""Stands where there is no number."""


def number(value: float, like: float | None = None) -> str:
    """Return about three digits of a number, without an exponent; as many after the point as
    ``like`` has, if that is given."""
    size = abs(value if like is None else like)
    digits = 0 if size >= 99.95 else 1 if size >= 9.995 else 2 if size >= 0.9995 else 3
    return f"{value:,.{digits}f}"


def loss(value: float, like: float | None = None) -> str:
    return f"{value:.3f}"


def size(value: float, like: float | None = None) -> str:
    """Return a number of bytes, in the unit of ``like``."""
    scale = abs(value if like is None else like)
    for unit, factor in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if scale >= factor:
            return f"{number(value / factor, scale / factor)} {unit}"
    return f"{value:.0f} B"


def seconds(value: float, like: float | None = None) -> str:
    return f"{number(value, like)} s"


def percent(share: float) -> str:
    return f"{100 * share:.0f} %"


def spread(stat: Stat | None, say: Callable[[float, float], str] = number) -> str:
    """Return mean ± half of the interval, the mean alone of a single seed."""
    if stat is None:
        return NONE
    mean, _, unit = say(stat.mean, stat.mean).partition(" ")
    if stat.half is not None:
        mean += f" ± {say(stat.half, stat.mean).partition(' ')[0]}"
    return f"{mean} {unit}".rstrip()


def change(found: Difference, like: float, say: Callable[[float, float], str] = number) -> str:
    """Return a difference with its sign and the ends of its interval, with digits as ``like``."""
    mean, _, unit = say(found.mean, like).partition(" ")
    text = mean if found.mean < 0 else f"+{mean}"
    if found.half < math.inf:
        low, high = (say(end, like).partition(" ")[0] for end in (found.low, found.high))
        text += f" ({low} .. {high})"
    return f"{text} {unit}".rstrip()


def listed(names: list[str]) -> str:
    """Return names as a sentence lists them, whether they hold commas or not."""
    if len(names) == 1:
        return names[0]
    if any(", " in name for name in names):
        return f"{'; '.join(names[:-1])}; and {names[-1]}"
    return f"{', '.join(names[:-1])} and {names[-1]}"
