"""The changes of mode of a run that chooses it, and what was compared for the last decision."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import fields
from typing import Any

from psdp.protocol import Choice

CHOICE = tuple(field.name for field in fields(Choice))
"""What a record of a change says of it."""


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
