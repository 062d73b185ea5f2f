"""The record of a run's events: written by who leads, and known to all others that hold a shard, of
whom one may have to go on with it."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from itertools import chain, takewhile
from pathlib import Path
from typing import Any, NamedTuple

from psdp.cast import Term
from psdp.errors import CheckpointError
from psdp.protocol import Push
from psdp.records.events import (
    START,
    Happened,
    NewTerm,
    Seal,
    event_in,
    hash_in,
    line_of,
    with_hash,
)
from psdp.records.folder import end_of_last_line

LATEST = 4096
"""So many lines a rank keeps that may be missing in the file when its writer's host is lost."""

MOST_TOLD = 900
"""The longest line that fits a message. A longer one is in the file, or lost with it, as is the
first."""


class Line(NamedTuple):
    """A line: its number from 1, the version that is decided with it, and as it stands there."""

    number: int
    version: int
    text: str


_PULL = '["pull"'

Tell = Callable[[int, int, str], object]
"""Tells the others of a :class:`Line`."""


class Record:
    """The lines of a file of events, of which readers see each at once.

    Args:
        version: that the start goes on from.
        check: raises CheckpointError if the file must not be written any more.
        now: a clock in seconds.

    Attributes:
        start: the hash of the first line, at who writes.
        tell: tells the others, where there are any that may have to go on.

    Raises:
        CheckpointError: of all that writes: it cannot be written.
    """

    def __init__(
        self,
        path: Path,
        version: int,
        check: Callable[[], None],
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self.path = path
        self.start = ""
        self.tell: Tell | None = None
        self._check = check
        self._now = now
        self._late_s = 0.0
        """What the clock of who wrote before is ahead of this rank's."""
        self._lines, self._hash = 0, ""
        self._seals: dict[int, tuple[int, str]] = {}
        """By version, the number and the hash of the line that it was decided with."""
        self._first = version
        self._kept: deque[Line] = deque(maxlen=LATEST)
        self._ends: dict[int, int] = {}
        """By version, the last line before one that decided another."""
        self._moved: list[tuple[int, int, int]] = []
        """Workers that have moved, to which ranks, and after how many lines."""
        self._lost: set[int] = set()
        self._joined: set[int] = set()

    # Written by who leads

    def begin(self, start: Mapping[str, Any]) -> None:
        """Begin the file; ``start`` says of which job it is."""
        try:
            # Of an earlier start from the same version nothing is left but this.
            self.path.write_text("", encoding="utf-8")
        except OSError as error:
            raise self._unwritable(error) from error
        self._append([START, dict(start)], self._first)
        self.start = self._hash

    def note(self, happened: Happened, version: int) -> None:
        """Write an event, with which this version is decided."""
        line = line_of(happened)
        if isinstance(happened.event, Push):
            work, time_s = happened.event.work, self._now() + self._late_s
            line += [round(time_s, 6), round(work.busy_s, 9), round(work.cpu_s, 6)]
        self._append(line, version)

    def begin_term(
        self,
        term: Term,
        version: int,
        modes: Collection[str] = (),
        evaluating: Collection[int] = (),
    ) -> None:
        """Write that a term begins at this version, after these changes of mode, with evaluations
        of these versions. Lines that decided later versions are void, and those of which nobody
        knew."""
        if self.tell is not None:  # there may be one who has just begun to hold a shard
            for line in self.since(self._seal(version)[0] - 1):
                self.tell(*line)
        counts = self._ends.get(version, 1)
        moved = tuple((worker, rank) for at, worker, rank in self._moved if at >= counts)
        gone = tuple(sorted(term.lost - self._lost))
        joined = tuple(pair for pair in term.joined if pair[1] not in self._joined)
        void, told = self._lines - counts, (tuple(modes), tuple(evaluating))
        begun = NewTerm(term.number, version, void, gone, joined, moved, *told)
        self._append(line_of(Happened(begun)), version)

    # Known to all

    @property
    def seal(self) -> Seal:
        """How far it has come."""
        return Seal(self.path.name, self.start, self._lines, self._hash)

    def seal_of(self, version: int) -> Seal:
        """Return how far this had come with the event that made a version, which no
        :meth:`forget` was told to forget."""
        return Seal(self.path.name, self.start, *self._seal(version))

    def forget(self, before: int) -> None:
        """Versions before this one are asked for no more."""
        for version in [version for version in self._seals if version < before]:
            del self._seals[version], self._ends[version]
        first = min((line for line, _ in self._seals.values()), default=0)
        self._moved = [moved for moved in self._moved if moved[0] >= first]

    def moved(self, worker: int, rank: int) -> None:
        """Another rank computes for a worker by now, of which a line tells or will tell."""
        self._moved.append((self._lines, worker, rank))

    # At who may go on with it

    def hear(self, number: int, version: int, text: str) -> bool:
        """Take a line that another rank has written; say whether it is new here."""
        if number <= self._lines:
            return False
        self._take(Line(number, version, text), hash_in(text))
        return True

    def account(self, version: int) -> dict[str, Any]:
        """Return what another rank needs to go on with this, beside the file, from a version on."""
        return {
            "first": self._first,
            "lines": self._lines,
            "hash": self._hash,
            "seals": [(at, *seal) for at, seal in self._seals.items()],
            "ends": list(self._ends.items()),
            "moved": self._moved,
            "lost": list(self._lost),
            "joined": list(self._joined),
            "kept": list(self.since(self._seal(version)[0] - 1)),
        }

    def go_on(self, account: Mapping[str, Any]) -> None:
        """Know what another rank knows, by its :meth:`account`."""
        self._lines, self._hash = account["lines"], account["hash"]
        self._seals = {version: (line, digest) for version, line, digest in account["seals"]}
        self._ends = dict(account["ends"])
        self._moved = [(line, worker, rank) for line, worker, rank in account["moved"]]
        self._lost, self._joined = {*account["lost"]}, {*account["joined"]}
        self._kept += [Line(*line) for line in account["kept"]]

    def since(self, number: int) -> Iterator[Line]:
        """Yield the lines after this one, as far as they are kept."""
        return (line for line in tuple(self._kept) if line.number > number)

    @property
    def lines(self) -> int:
        """How many are known."""
        return self._lines

    def take_over(self) -> None:
        """Go on writing in place of the rank that did: drop a last line that is cut off, and add
        what is missing.

        Raises:
            CheckpointError: a line is missing that is not known here.
        """
        try:
            first, count, unknown = _read(self.path, self._lines)
        except OSError as error:
            raise self._unwritable(error) from error
        self.start = hash_in(first)
        for line in self.since(count):
            if line.number != count + 1:
                text = f"{self.path} lacks line {count + 1}, which no rank that is left knows"
                raise CheckpointError(f"{text}; the run stops here")
            self._write(line.text)
            count += 1
        self._learn(unknown)
        pushes = (event_in(line.text) for line in reversed(self._kept))
        latest = next((push for push in pushes if isinstance(push.event, Push)), None)
        if latest is not None:
            self._late_s = latest.time_s - self._now()

    def _learn(self, unknown: Sequence[str]) -> None:
        """Know lines of the file of which who wrote them has told nobody. Pulls decide nothing, and
        count: an evaluation may have ended with one. From the first other line on they are void."""
        version, lines = max(self._ends, default=self._first), self._lines + len(unknown)
        for text in takewhile(lambda text: text.startswith(_PULL), unknown):
            self._take(Line(self._lines + 1, version, text), hash_in(text))
        if unknown:
            self._lines, self._hash = lines, hash_in(unknown[-1])

    def _append(self, content: list[Any], version: int) -> None:
        text, digest = with_hash(self._hash, content)
        self._write(text)
        line = Line(self._lines + 1, version, text)
        if self._take(line, digest) and self.tell is not None:
            self.tell(*line)

    def _take(self, line: Line, digest: str) -> bool:
        """Take note of a line; say whether others can be told of it."""
        self._lines, self._hash = line.number, digest
        self._seals.setdefault(line.version, (line.number, digest))
        self._ends[line.version] = line.number
        if line.text.startswith(f'["{NewTerm.NAME}"'):
            term = event_in(line.text).event
            assert isinstance(term, NewTerm)
            for version in [version for version in self._seals if version > line.version]:
                del self._seals[version], self._ends[version]
            self._lost |= {*term.lost}
            self._joined |= {rank for _, rank in term.joined}
        told = line.number > 1 and len(line.text) <= MOST_TOLD
        if told:
            self._kept.append(line)
        return told

    def _seal(self, version: int) -> tuple[int, str]:
        return (1, self.start) if version == self._first else self._seals[version]

    def _write(self, text: str) -> None:
        self._check()
        try:
            with self.path.open("a", encoding="utf-8") as file:
                file.write(text + "\n")
        except OSError as error:
            raise self._unwritable(error) from error

    def _unwritable(self, error: OSError) -> CheckpointError:
        return CheckpointError(f"cannot write {self.path}: {error.strerror}; the run stops here")


def _read(path: Path, known: int) -> tuple[str, int, list[str]]:
    """Drop a last line that is cut off; return the first line, how many there are, and those after
    so many."""
    count, unknown = 0, []
    with path.open("rb+") as file:
        file.truncate(end_of_last_line(file))
        file.seek(0)
        first = file.readline()
        for count, raw in enumerate(chain([first], file) if first else (), start=1):
            if count > known:
                unknown.append(raw)
    if not first:
        raise CheckpointError(f"{path} is empty, though it was begun; the run stops here")
    return _text(first), count, [*map(_text, unknown)]


def _text(raw: bytes) -> str:
    return raw.decode().rstrip("\n")
