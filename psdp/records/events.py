"""The events of a run, a line each, chained by hashes: written, and read back.

A file holds one event a line, as JSON: ["pull", worker], ["push", worker, clock, version, steps,
step_s, loss, sum_of_squares, time_s, busy_s, cpu_s], ["move", worker, rank], ["leave", worker],
["stop"], ["switch", mode] or ["term", number, version, void, lost, joined, moved, modes, open].
The last three of a push are for :mod:`psdp.simulate`: when rank 0 noted it, by a clock of its own;
and what its worker had used of its core. Before them stands how many units count, unless all do.

The first line, ["start", {...}], says of which job they are, and from which checkpoint it goes on.
Each line ends with its hash: 128 bits of the SHA-256 of the hash of the line before, and of the
line up to its own. So a line that is changed, missing or elsewhere shows at the next one; that the
last ones are missing shows by the hashes that checkpoints and the summary keep
(:class:`Seal`). Files that psdp wrote before 0.2 have neither.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Generator
from contextlib import closing, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

from psdp.errors import ReplayError
from psdp.modes import CANDIDATES
from psdp.protocol import Choice, Event, Leave, Move, Pull, Push, Stop, Switch, Work

START = "start"
HASH_DIGITS = 32
_BEFORE_HASH = ', "'
_AFTER_HASH = '"]'
_TERM = b'["term"'
_OF_HASH = len(_BEFORE_HASH) + HASH_DIGITS + len(_AFTER_HASH)


@dataclass(frozen=True)
class NewTerm:
    """Ranks that held a shard were lost, or spare ones came to hold one: all went on from a
    version. What was under way there is void, and all workers asked again, with nothing of their
    own.

    Attributes:
        number: of the term.
        void: so many lines before this one, of which no rank that was left knew, or not all that
            came of them.
        lost: the ranks that held one.
        joined: (shard, rank) of those that hold one from now on.
        moved: (worker, rank) of each worker of which all knew that another rank computes for it,
            though no line says so that counts.
        modes: to which the run had gone over so far, if it chooses its mode. It begins anew.
        open: versions whose evaluations were begun again.
    """

    NAME: ClassVar[str] = "term"

    number: int
    version: int
    void: int
    lost: tuple[int, ...] = ()
    joined: tuple[tuple[int, int], ...] = ()
    moved: tuple[tuple[int, int], ...] = ()
    modes: tuple[str, ...] = ()
    open: tuple[int, ...] = ()


@dataclass(frozen=True)
class Happened:
    """An event; when rank 0 noted it, in seconds; of a change of mode, how that was chosen, where
    that is known."""

    event: Event | NewTerm
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


def with_hash(before: str, content: list[Any]) -> tuple[str, str]:
    """Return a line with its hash, and that; ``before`` is the hash of the line before."""
    body = json.dumps(content)[:-1]
    digest = hash_of(before, body)
    return f"{body}{_BEFORE_HASH}{digest}{_AFTER_HASH}", digest


def hash_in(text: str) -> str:
    """Return the hash that a line states."""
    return text[len(_BEFORE_HASH) - _OF_HASH : -len(_AFTER_HASH)]


def event_in(text: str) -> Happened:
    """Return the event of a line with a hash.

    Raises:
        ValueError, TypeError: it is no line of a record.
    """
    return event_of(json.loads(text)[:-1])


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
        happened: the events that count, in order.
        numbers: of their lines.
        seal: of its last whole line; None in a file without hashes.
    """

    happened: list[Happened]
    numbers: list[int]
    seal: Seal | None


def read_record(path: Path) -> Events:
    """Return what happened in a recorded run. A last line that was cut off with it is left out.

    Raises:
        OSError: the file cannot be read.
        ReplayError: it is damaged.
    """
    happened: list[Happened] = []
    numbers: list[int] = []
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
                event = event_of(line.content)
                if isinstance(event.event, NewTerm) and (void := event.event.void):
                    del happened[-void:], numbers[-void:]
                happened.append(event)
                numbers.append(line.number)
            except (ValueError, TypeError) as error:
                raise ReplayError(
                    f"{path}, line {line.number} is no event: {line.text!r}"
                ) from error
    return Events(happened, numbers, seal)


def void_lines(path: Path) -> list[range]:
    """Return the numbers of the lines that new terms have made void.

    Raises:
        OSError: the file cannot be read.
    """
    void = []
    with path.open("rb") as file:
        for number, raw in enumerate(file, start=1):
            if raw.startswith(_TERM):
                with suppress(ValueError, TypeError):
                    term = event_in(raw.decode()).event
                    assert isinstance(term, NewTerm)
                    void.append(range(number - term.void, number))
    return void


def line_of(happened: Happened) -> list[Any]:
    """Return an event as a line has it; of a push without when it came and what it cost."""
    match happened.event:
        case Pull(worker):
            return ["pull", worker]
        case Push(worker, work=work):
            numbers = (worker, work.clock, work.version, work.steps, work.step_s)
            some = (work.counted,) if work.counted else ()
            return ["push", *numbers, work.loss, work.sum_of_squares, *some]
        case Move(worker, rank):
            return ["move", worker, rank]
        case Leave(worker):
            return ["leave", worker]
        case Stop():
            return ["stop"]
        case Switch(mode):
            return ["switch", mode]
        case NewTerm(number, version, void, lost, joined, moved, modes, versions):
            pairs = ([*map(list, each)] for each in (joined, moved))
            return [NewTerm.NAME, number, version, void, [*lost], *pairs, [*modes], [*versions]]


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
            *counted,
            float(time_s),
            float(busy_s),
            float(cpu_s),
        ] if len(counted) < 2 and all(type(of) is int and of > 0 for of in counted):
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
                counted=sum(counted),
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
        case ["term", int(number), int(version), int(void), *lists]:
            lost, *pairs, modes, versions = map(tuple, lists)
            joined, moved = (tuple((int(of), int(rank)) for of, rank in each) for each in pairs)
            return Happened(NewTerm(number, version, void, lost, joined, moved, modes, versions))
    raise ValueError("no event")
