"""The changes of mode of a run that chooses it, and what was compared for the last decision."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from psdp.protocol import Choice
from psdp.records.folder import METRICS, SUMMARY

CHOICE = tuple(field.name for field in fields(Choice))
"""What a record of a change says of it."""


@dataclass(frozen=True)
class Stayed:
    """That it was chosen to change nothing, at this version, for the last time."""

    version: int
    choice: Choice


def read_choices(run: Path, version: int) -> tuple[Sequence[Choice | None], Stayed | None]:
    """Return how the start of a run from a version has chosen each change of its mode, None where
    that is not known; and that it stayed in the last one, if it has told why."""
    made: list[Choice | None] = []
    begun = 0
    try:
        records = list(map(json.loads, (run / METRICS).read_text(encoding="utf-8").splitlines()))
        for record in records:
            if record["kind"] == "resume":
                begun = record["version"]
                made = [] if begun == version else made
            elif record["kind"] == "mode" and begun == version:
                made.append(Choice.from_record(record))
        summary = json.loads((run / SUMMARY).read_bytes())
        last = summary["choice"]
        if begun != version or last is None:  # a summary is of the last start
            return made, None
        choice, at = Choice.from_record(last), last["version"]
        if choice is None or {"version": at, "mode": choice.mode} in summary["modes"]:
            return made, None
        return made, Stayed(at, choice)
    except (OSError, ValueError, KeyError, TypeError):
        return made, None  # it was cut off, or is of an older psdp


class Changes:
    """Takes what was chosen."""

    def __init__(self) -> None:
        self._made: list[dict[str, Any]] = []
        self._last: dict[str, Any] = {}

    @property
    def modes(self) -> list[str]:
        """The modes that were gone over to, in order."""
        return [change["mode"] for change in self._made]

    def switched(self, version: int, mode: str, choice: Choice | None) -> dict[str, Any]:
        """Note a change from this version on, and how it was chosen, if that is known; return what
        a record says of it."""
        how = {"mode": mode, "reason": "as recorded"} if choice is None else choice.record()
        self._made.append({"version": version, "mode": mode})
        self._last = {"version": version, **how}
        return how

    def stayed(self, version: int, choice: Choice) -> bool:
        """Note that it was chosen to change nothing; return whether nothing was chosen before."""
        first = not self._last
        self._last = {"version": version, **choice.record()}
        return first

    def take_over(self, records: Iterable[Mapping[str, Any]]) -> None:
        """Go on with the changes of another rank's records."""
        self._made = []
        for of in records:
            self._made.append({"version": of["version"], "mode": of["mode"]})
            self._last = {name: of[name] for name in ("version", *CHOICE) if name in of}

    def summary(self) -> dict[str, Any]:
        """Return what a summary says of them."""
        return {"modes": self._made, "choice": self._last or None}
