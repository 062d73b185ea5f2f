"""What a comparison of rows compares, in words: their modes alone, or other settings too."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

from psdp.report.formats import listed
from psdp.report.rows import LostRow, Row
from psdp.report.settings import differing, said, value_in


def what_differs(rows: Sequence[Row | LostRow]) -> str:
    """Return the sentence that names all in which rows differ beside their modes."""
    names = differing(rows)
    if not names:
        return "All rows have the same settings beside what belongs to a mode alone."
    each = "; ".join(f"{said(name)} {in_rows(rows, name, always=True)}" for name in names)
    return f"Rows differ in more than their modes: {each}. What compares such rows says so."


def comparing(sentence: str, rows: Sequence[Row | LostRow]) -> str:
    """Return a sentence that compares these rows, with what it compares."""
    names = [said(name) for name in differing(rows)]
    modes = len({row.mode for row in rows}) > 1
    if not names:
        return f"{sentence} [modes alone]" if modes else sentence
    return f"{sentence} [{'modes and settings' if modes else 'settings alone'}: {', '.join(names)}]"


def in_rows(rows: Sequence[Row | LostRow], name: str, *, always: bool = False) -> str:
    """Return the value of a setting or a circumstance; of several (or ``always``), in which rows
    each is; nothing if it has a meaning in none."""
    of: defaultdict[str | None, list[str]] = defaultdict(list)
    for row in rows:
        of[value_in(row, name)].append(row.label)
    of.pop(None, None)
    if len(of) < 2 and not always:
        return "".join(map(str, of))
    return " or ".join(f"{value} ({listed(labels)})" for value, labels in of.items())
