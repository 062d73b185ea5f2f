"""What an audit finds: of each check whether it is proved, contradicted, or could not be made."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any


class Verdict(StrEnum):
    """What became of a check."""

    PROVED = "proved"
    UNCHECKED = "could not be checked"
    CONTRADICTED = "CONTRADICTED"


UNTOLD = "no push tells of it"
"""Why something can be checked of no run."""


@dataclass(frozen=True)
class Place:
    """Where something stands: in a file, at a line from 1 if it has lines."""

    path: Path
    line: int | None = None

    def __str__(self) -> str:
        return str(self.path) if self.line is None else f"{self.path}:{self.line}"


class Contradiction(Exception):
    """The records do not agree with one another, or with what a run may do.

    Attributes:
        place: where that shows; None where the one who reads knows.
    """

    def __init__(self, text: str, place: Place | None = None) -> None:
        super().__init__(text)
        self.place = place


@dataclass(frozen=True)
class Finding:
    """What was found of one check; ``why`` it could not be made."""

    check: str
    verdict: Verdict
    text: str
    place: Place | None = None
    why: str | None = None

    def __str__(self) -> str:
        because = "" if self.why is None else f", because {self.why}"
        at = "" if self.place is None else f" at {self.place}"
        return f"{self.verdict}: {self.check}: {self.text}{because}{at}"

    def record(self) -> dict[str, Any]:
        """Return everything for JSON."""
        place = self.place
        return {
            "check": self.check,
            "verdict": self.verdict,
            "text": self.text,
            "why": self.why,
            "file": None if place is None else str(place.path),
            "line": None if place is None else place.line,
        }


class Findings:
    """All that was found, in order."""

    def __init__(self) -> None:
        self.all: list[Finding] = []

    @property
    def contradicted(self) -> bool:
        return any(finding.verdict is Verdict.CONTRADICTED for finding in self.all)

    def proved(self, check: str, text: str) -> None:
        self.all.append(Finding(check, Verdict.PROVED, text))

    def unchecked(self, check: str, text: str, why: str) -> None:
        self.all.append(Finding(check, Verdict.UNCHECKED, text, why=why))

    def contradicted_by(self, check: str, text: str, place: Place | None = None) -> None:
        self.all.append(Finding(check, Verdict.CONTRADICTED, text, place))

    @contextmanager
    def checking(self, check: str, path: Path) -> Iterator[None]:
        """Take down a contradiction that the block comes upon, in this file if it says no other."""
        try:
            yield
        except Contradiction as found:
            self.contradicted_by(check, str(found), found.place or Place(path))


def expect(good: bool, text: str, place: Place | None = None) -> None:
    """
    Raises:
        Contradiction: it is not good.
    """
    if not good:
        raise Contradiction(text, place)


def many(count: int, what: str) -> str:
    """Return a count in words."""
    return f"{count:,} {what}{'' if count == 1 else 's'}"
