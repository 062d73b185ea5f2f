"""The events of a run, a line each, chained by hashes: written, and read back.

A file holds one event a line, as JSON: ["pull", worker], ["push", worker, clock, version, steps,
step_s, loss, sum_of_squares, time_s, busy_s, cpu_s], ["move", worker, rank], ["leave", worker],
["stop"] or ["switch", mode]. The last three of a push are for :mod:`psdp.simulate`: when rank 0
noted it, by a clock of its own; and what its worker had used of its core.

The first line, ["start", {...}], says of which job they are, and from which checkpoint it goes on.
Each line ends with its hash: 128 bits of the SHA-256 of the hash of the line before, and of the
line up to its own. So a line that is changed, missing or elsewhere shows at the next one; that the
last ones are missing shows by the hashes that checkpoints and the summary keep
(:class:`Seal`). Files that psdp wrote before 0.2 have neither.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Generator, Mapping
from contextlib import closing
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

from psdp.errors import CheckpointError, ReplayError
from psdp.modes import CANDIDATES
from psdp.protocol import Choice, Event, Leave, Move, Pull, Push, Stop, Switch, Work

START = "start"
HASH_DIGITS = 32
_BEFORE_HASH = ', "'
_AFTER_HASH = '"]'
_OF_HASH = len(_BEFORE_HASH) + HASH_DIGITS + len(_AFTER_HASH)


@dataclass(frozen=True)
class Happened:
    """An event; when rank 0 noted it, in seconds; of a change of mode, how that was chosen, where
    that is known."""

    event: Event
    time_s: float = 0.0
    choice: Choice | None = None


@dataclass(frozen=True)
class Seal:
    """How far a record had come.

    Attributes:
        file: its name.
        start: the hash of its first line, which no two starts share.
        line: the number of its last line, from 1, and the hash of that.
    """

    file: str
    start: str
    line: int
    hash: str

    def record(self) -> dict[str, Any]:
        """Return everything for JSON."""
        return asdict(self)

    @classmethod
    def from_record(cls, record: Any) -> Seal | None:
        """Return what :meth:`record` described; None if that is something else."""
        match record:
            case {"file": str(file), "start": str(start), "line": int(line), "hash": str(digest)}:
                return cls(file, start, line, digest)
        return None


class Line(NamedTuple):
    """A line of a file of events.

    Attributes:
        number: from 1.
        content: without its hash; None if it is no list of JSON.
        text: as it stands there, the beginning of it.
        hash: that it states; None in a file without any.
        follows: whether that is the hash of the line before and this one.
        whole: whether it has an end. What has none was cut off with its run, or is being written.
    """

    number: int
    content: list[Any] | None
    text: str
    hash: str | None
    follows: bool
    whole: bool


def events_file(run: Path, version: int) -> Path:
    """Return where the events of a start of a run from this version are."""
    return run / f"events-{version:06d}.jsonl"


def hash_of(before: str, body: str) -> str:
    """Return the hash of a line: of the hash of the line before, and of what comes before it."""
    return hashlib.sha256(f"{before}{body}".encode()).hexdigest()[:HASH_DIGITS]


def digest_of(what: Any) -> str:
    """Return a hash of what JSON holds, whatever the order of its keys."""
    return hashlib.sha256(json.dumps(what, sort_keys=True).encode()).hexdigest()[:HASH_DIGITS]


class Record:
    """Appends events to a file; readers see each at once.

    Args:
        check: raises CheckpointError if it must not be written any more.
        start: of which job they are; its "version" is the one that they go on from.
        now: a clock in seconds.

    Raises:
        CheckpointError: it cannot be written.
    """

    def __init__(
        self,
        path: Path,
        check: Callable[[], None],
        start: Mapping[str, Any],
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self.path = path
        self._check = check
        self._now = now
        self._lines = 0
        self._hash = ""
        try:
            # Of an earlier start from the same version nothing is left but this.
            path.write_text("", encoding="utf-8")
        except OSError as error:
            raise self._unwritable(error) from error
        self._append([START, dict(start)])
        self.start = self._hash
        self._seals = {int(start["version"]): self.seal}

    @property
    def seal(self) -> Seal:
        """How far it has come."""
        return Seal(self.path.name, self.start, self._lines, self._hash)

    def note(self, happened: Happened) -> None:
        line = line_of(happened)
        if isinstance(happened.event, Push):
            work = happened.event.work
            line += [round(self._now(), 6), round(work.busy_s, 9), round(work.cpu_s, 6)]
        self._append(line)

    def decided(self, version: int) -> None:
        """The event that was noted last makes this version, sooner or later."""
        self._seals[version] = self.seal

    def seal_of(self, version: int) -> Seal:
        """Return how far this had come with the event that made a version, which no
        :meth:`forget` was told to forget."""
        return self._seals[version]

    def forget(self, before: int) -> None:
        """Versions before this one are asked for no more."""
        for version in [version for version in self._seals if version < before]:
            del self._seals[version]

    def _append(self, line: list[Any]) -> None:
        body = json.dumps(line)[:-1]
        digest = hash_of(self._hash, body)
        self._check()
        try:
            with self.path.open("a", encoding="utf-8") as file:
                file.write(f"{body}{_BEFORE_HASH}{digest}{_AFTER_HASH}\n")
        except OSError as error:
            raise self._unwritable(error) from error
        self._hash = digest
        self._lines += 1

    def _unwritable(self, error: OSError) -> CheckpointError:
        return CheckpointError(f"cannot write {self.path}: {error.strerror}; the run stops here")


def read_lines(path: Path) -> Generator[Line, None, None]:
    """Yield the lines of a file of events as they stand there.

    Raises:
        OSError: it cannot be read.
    """
    before, chained = "", True
    with path.open(encoding="utf-8", errors="replace", newline="\n") as file:
        for number, text in enumerate(file, start=1):
            whole = text.endswith("\n")
            text = text.removesuffix("\n")
            if number == 1:
                chained = text.startswith(f'["{START}"')
            body, stated, follows = text, None, True
            if chained:
                body, stated = text[:-_OF_HASH], text[-_OF_HASH:]
                expected = hash_of(before, body)
                follows = stated == f"{_BEFORE_HASH}{expected}{_AFTER_HASH}"
                # After one that does not follow, the next ones may still do.
                before = stated = stated[len(_BEFORE_HASH) : -len(_AFTER_HASH)]
                body += "]"
            yield Line(number, _parsed(body), text[:80], stated, follows, whole)


def _parsed(text: str) -> list[Any] | None:
    try:
        content = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return content if isinstance(content, list) else None


@dataclass(frozen=True)
class Events:
    """What a file of events holds.

    Attributes:
        happened: the events, in order.
        first: the number of the line of the first.
        seal: of its last whole line; None in a file without hashes.
    """

    happened: list[Happened]
    first: int
    seal: Seal | None


def read_record(path: Path) -> Events:
    """Return what happened in a recorded run. A last line that was cut off with it is left out.

    Raises:
        OSError: the file cannot be read.
        ReplayError: it is damaged.
    """
    happened: list[Happened] = []
    start, seal = None, None
    with closing(read_lines(path)) as lines:
        for line in lines:
            if not line.whole:
                break
            if not line.follows:
                raise ReplayError(
                    f"{path}, line {line.number} is damaged: it, or a line before it, was changed, "
                    f"removed or moved, since its hash does not follow: {line.text!r}"
                )
            if line.hash is not None:
                start = start or line.hash
                seal = Seal(path.name, start, line.number, line.hash)
            if line.number == 1 and seal is not None:
                continue
            try:
                happened.append(event_of(line.content))
            except (ValueError, TypeError) as error:
                raise ReplayError(
                    f"{path}, line {line.number} is no event: {line.text!r}"
                ) from error
    return Events(happened, 1 if seal is None else 2, seal)


def line_of(happened: Happened) -> list[str | int | float]:
    """Return an event as a line has it; of a push without when it came and what it cost."""
    match happened.event:
        case Pull(worker):
            return ["pull", worker]
        case Push(worker, work=work):
            numbers = (worker, work.clock, work.version, work.steps, work.step_s)
            return ["push", *numbers, work.loss, work.sum_of_squares]
        case Move(worker, rank):
            return ["move", worker, rank]
        case Leave(worker):
            return ["leave", worker]
        case Stop():
            return ["stop"]
        case Switch(mode):
            return ["switch", mode]


def event_of(line: list[Any] | None) -> Happened:
    """Return the event of a line; of a push without its units and batches, which it does not say.

    Raises:
        ValueError, TypeError: it is no line of a record.
    """
    match line:
        case ["pull", int(worker)]:
            return Happened(Pull(worker))
        case [
            "push",
            int(worker),
            int(clock),
            int(version),
            int(steps),
            float(step_s),
            float(loss),
            float(squares),
            float(time_s),
            float(busy_s),
            float(cpu_s),
        ]:
            work = Work(
                clock=clock,
                version=version,
                units=0,
                steps=steps,
                loss=loss,
                sum_of_squares=squares,
                step_s=step_s,
                busy_s=busy_s,
                cpu_s=cpu_s,
            )
            return Happened(Push(worker, slot=0, work=work), time_s)
        case ["move", int(worker), int(rank)]:
            return Happened(Move(worker, rank))
        case ["leave", int(worker)]:
            return Happened(Leave(worker))
        case ["stop"]:
            return Happened(Stop())
        case ["switch", str(mode)] if mode in CANDIDATES:
            return Happened(Switch(mode))
    raise ValueError("no event")
