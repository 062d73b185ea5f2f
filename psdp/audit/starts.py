"""The starts of a run, which of them are in its weights, and up to where."""

from __future__ import annotations

import json
from collections.abc import Generator, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from psdp.audit.findings import Contradiction, Place
from psdp.records.folder import METRICS

RESUME = "resume"


@dataclass(frozen=True)
class Record:
    """A line of metrics.jsonl."""

    place: Place
    kind: str
    version: int
    units: int
    content: Mapping[str, Any]

    def number(self, name: str) -> float | None:
        """
        Raises:
            Contradiction: what it says under this name is no number, nor null.
        """
        value = self.content.get(name)
        if value is None or (isinstance(value, int | float) and not isinstance(value, bool)):
            return value
        raise Contradiction(f"{name} is {value!r:.40}, no number", self.place)


@dataclass(frozen=True)
class Start:
    """A start of the run.

    Attributes:
        version: that it went on from; 0 of the first, unless that went on from another run.
        units: in that; None where the records do not say.
        events: the hash that its record of events begins with; None: it has none, or does not say.
        lines: of metrics.jsonl that are its own, numbers from 1.
        resumed: whether it went on from a checkpoint.
    """

    version: int
    units: int | None
    events: str | None
    lines: range
    resumed: bool


@dataclass(frozen=True)
class Part:
    """What of a start is in the weights: up to a version; None: all."""

    start: Start
    until: int | None

    def holds(self, version: int) -> bool:
        return self.until is None or version <= self.until

    def __str__(self) -> str:
        return f"the start from version {self.start.version}"


def read_metrics(run: Path, unit: str, lines: range, *kinds: str) -> Generator[Record, None, None]:
    """Yield the records of these kinds in these lines of metrics.jsonl, as they stand there. A last
    line that was cut off, or is being written, is none.

    Raises:
        Contradiction: a line is no record.
    """
    path = run / METRICS
    for number, text in _lines(path):
        if number not in lines:
            continue
        place = Place(path, number)
        if kinds and not any(f'"{kind}"' in text for kind in kinds):
            continue
        if not text.endswith("\n"):
            return
        yield from _parsed(text, unit, place, kinds)


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    try:
        with path.open(encoding="utf-8", errors="replace", newline="\n") as file:
            yield from enumerate(file, start=1)
    except FileNotFoundError:
        return


def _parsed(text: str, unit: str, place: Place, kinds: tuple[str, ...]) -> Iterator[Record]:
    try:
        content = json.loads(text)
        kind, version, units = content["kind"], content["version"], content[f"{unit}s"]
    except (ValueError, KeyError, TypeError, RecursionError):
        raise Contradiction(f"the line is no record: {text[:60]!r}", place) from None
    if type(version) is not int or type(units) is not int or not isinstance(kind, str):
        raise Contradiction(f"the line is no record: {text[:60]!r}", place)
    if not kinds or kind in kinds:
        yield Record(place, kind, version, units, content)


def read_starts(run: Path, unit: str) -> list[Start]:
    """Return the starts that metrics.jsonl tells of, in their order.

    Raises:
        Contradiction: a line is no record.
    """
    begun: list[Record | None] = []
    first_lines: list[int] = []
    count = sum(1 for _ in _lines(run / METRICS))
    everything = range(1, count + 1)
    for record in read_metrics(run, unit, everything, RESUME):
        line = record.place.line
        assert line is not None
        if not begun and line > 1:
            begun.append(None)
            first_lines.append(1)
        begun.append(record)
        first_lines.append(line)
    if not begun:
        begun, first_lines = [None], [1]
    ends = [*first_lines[1:], count + 1]
    return [
        Start(
            version=0 if record is None else record.version,
            units=0 if record is None else record.units,
            events=None if record is None else record.content.get("events"),
            lines=range(first, end),
            resumed=record is not None,
        )
        for record, first, end in zip(begun, first_lines, ends, strict=True)
    ]


def parts_of(starts: list[Start]) -> list[Part]:
    """Return what of the starts is in the weights, in its order: a start that goes on from a
    version leaves nothing of what came after that in starts before it."""
    kept: list[Start] = []
    for start in starts:
        while kept and kept[-1].version >= start.version:
            kept.pop()
        kept.append(start)
    ends: list[int | None] = [start.version for start in kept[1:]]
    return [Part(start, until) for start, until in zip(kept, [*ends, None], strict=True)]
