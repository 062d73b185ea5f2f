"""The order in which a run's events came: written down, and imposed on a later run.

Everything else of a run follows from its settings, so a run that takes the same events in the same
order ends with the same bits, whatever the timing. A file holds one event a line, as JSON:
["pull", worker], ["push", worker, clock, version, steps, step_s, loss, sum_of_squares, time_s,
busy_s, cpu_s], ["move", worker, rank], ["leave", worker], ["stop"] or ["switch", mode]. Loss and
sum of squares of a push show where a replay diverges: at its first gradient that differs. What an
optimizer of a worker's own has gathered is lost with a move. The last three of a push are for
:mod:`psdp.simulate`: when rank 0 noted it, by a clock of its own; and what its worker had used of
its core.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Container
from dataclasses import dataclass, replace
from pathlib import Path

from psdp.errors import CheckpointError, ReplayError
from psdp.protocol import CANDIDATES, Event, Leave, Move, Pull, Push, Stop, Switch, Work
from psdp.records.folder import CONFIG

BEFORE = "0.1.0"
"""The version in which workers had the numbers of their ranks, after those of all servers, and
squares were summed in another order: what it recorded of a norm differs in its last bits, by this
much at most of float32. Losses do not differ, as long as norms clip nothing."""
NORM_TOLERANCE = 1e-5


@dataclass(frozen=True)
class Happened:
    """An event; when rank 0 noted it, in seconds; of a change of mode, why."""

    event: Event
    time_s: float = 0.0
    reason: str = "as recorded"


def events_file(run: Path, version: int) -> Path:
    """Return where the events of a start of a run from this version are."""
    return run / f"events-{version:06d}.jsonl"


class Record:
    """Appends events to a file; readers see each at once.

    Args:
        check: raises CheckpointError if it must not be written any more.
        now: a clock in seconds.

    Raises:
        CheckpointError: it cannot be written.
    """

    def __init__(
        self,
        path: Path,
        check: Callable[[], None],
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self.path = path
        self._check = check
        self._now = now
        try:
            # Of an earlier start from the same version nothing is left but this.
            path.write_text("", encoding="utf-8")
        except OSError as error:
            raise self._unwritable(error) from error

    def note(self, happened: Happened) -> None:
        line = _line(happened)
        if isinstance(happened.event, Push):
            work = happened.event.work
            line += [round(self._now(), 6), round(work.busy_s, 9), round(work.cpu_s, 6)]
        self._check()
        try:
            with self.path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(line) + "\n")
        except OSError as error:
            raise self._unwritable(error) from error

    def _unwritable(self, error: OSError) -> CheckpointError:
        return CheckpointError(f"cannot write {self.path}: {error.strerror}; the run stops here")


class Replay:
    """Holds back what happens until its turn in the record.

    Raises:
        ReplayError: the record cannot be read.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            self._expected = read_record(path)
        except OSError as error:
            raise ReplayError(
                f"{path}: {error.strerror}; --replay takes the folder of a run that was made with "
                "--record, and --resume what that start of it resumed"
            ) from error
        version, servers = _told_by(path.parent)
        self._of_before = version == BEFORE
        if self._of_before:
            self._expected = [_numbered(happened, 1 - servers) for happened in self._expected]
        self._done = 0
        self._held: dict[int, Happened] = {}

    @property
    def over(self) -> bool:
        """Whether all of the record has been replayed."""
        return self._done == len(self._expected)

    def hold(self, worker: int, happened: Happened) -> None:
        """Keep what a worker did until its turn. It waits for an answer, so it does one thing."""
        assert worker not in self._held
        self._held[worker] = happened

    def next(self, waiting: Container[int]) -> Happened | None:
        """Return what is next in the record, if it has happened; a push as fast as it was then.

        Args:
            waiting: workers that have not been answered.

        Raises:
            ReplayError: something else happened, or cannot happen any more.
        """
        if self.over:
            return None
        expected = self._expected[self._done]
        match expected.event:
            case Move() | Leave() | Stop() | Switch():
                self._done += 1
                return expected
            case Pull(worker) | Push(worker):
                pass
        happened = self._held.get(worker)
        if happened is None:
            if worker in waiting:
                raise self._diverged(expected, "it waits for an answer")
            return None
        self._check(expected, happened)
        del self._held[worker]
        self._done += 1
        return replace(expected, event=_where_it_is(expected.event, happened.event))

    def release(self) -> list[Happened]:
        """Give up what is held: the order does not matter any more."""
        held = [self._held[worker] for worker in sorted(self._held)]
        self._held.clear()
        return held

    def discard(self, worker: int) -> None:
        """Forget what is held of a worker."""
        self._held.pop(worker, None)

    def _check(self, expected: Happened, happened: Happened) -> None:
        """See that what happened is what is next in the record.

        Raises:
            ReplayError: it is not.
        """
        a, b = _line(expected), _line(happened)
        if a[0] == b[0] == "push":
            a[5] = b[5] = 0  # its speed
            if self._of_before and _alike(expected.event, happened.event):
                a[7] = b[7]
        if a != b:
            raise self._diverged(expected, f"it was {_describe(happened)}")

    def _diverged(self, expected: Happened, instead: str) -> ReplayError:
        return ReplayError(
            f"the replay diverges at line {self._done + 1} of {self.path}: expected "
            f"{_describe(expected)}, but {instead}. Do code, settings, corpus, kernels and "
            "processor equal those of the recorded run?"
        )


def _alike(expected: Event, happened: Event) -> bool:
    """Say whether two pushes have the same norm but for its last bits."""
    assert isinstance(expected, Push), expected
    assert isinstance(happened, Push), happened
    a, b = expected.work.sum_of_squares, happened.work.sum_of_squares
    return math.isclose(a, b, rel_tol=NORM_TOLERANCE)


def _told_by(run: Path) -> tuple[str | None, int]:
    """Return the version of psdp that a run was made with, None if its folder does not say, and its
    number of servers."""
    try:
        config = json.loads((run / CONFIG).read_text(encoding="utf-8"))
        return str(config["versions"]["psdp"]), int(config["servers"])
    except (OSError, ValueError, KeyError, TypeError):
        return None, 1


def _numbered(happened: Happened, more: int) -> Happened:
    """Return the event of a worker whose number is so much higher."""
    if isinstance(happened.event, Pull | Push | Leave):
        worker = happened.event.worker + more
        return replace(happened, event=replace(happened.event, worker=worker))
    return happened


def read_record(path: Path) -> list[Happened]:
    """Return what happened in a recorded run, in order.

    Raises:
        OSError: the file cannot be read.
        ReplayError: a line is no event.
    """
    events: list[Happened] = []
    lines = path.read_text(encoding="utf-8").splitlines()
    for number, line in enumerate(lines, start=1):
        try:
            events.append(_parsed(json.loads(line)))
        except (ValueError, TypeError) as error:
            if number == len(lines):
                break  # the run was cut off while it wrote this line
            raise ReplayError(f"{path}, line {number} is no event: {line[:80]!r}") from error
    return events


def _where_it_is(expected: Event, happened: Event) -> Event:
    """Return an event of the record with what it does not say."""
    if isinstance(expected, Push) and isinstance(happened, Push):
        own = happened.work
        work = replace(expected.work, units=own.units, batch=own.batch)
        return replace(expected, slot=happened.slot, work=work)
    return expected


def _line(happened: Happened) -> list[str | int | float]:
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


def _parsed(line: list[str | int | float]) -> Happened:
    """
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
                units=0,  # it does not say
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


def _describe(happened: Happened) -> str:
    match happened.event:
        case Pull(worker):
            return f"a pull of worker {worker}"
        case Push(worker, work=work):
            return (
                f"gradient {work.clock} of worker {worker} on version {work.version}, of loss "
                f"{work.loss!r} and squared norm {work.sum_of_squares!r}"
            )
        case Move(worker, rank):
            return f"the move of worker {worker} to rank {rank}"
        case Leave(worker):
            return f"the loss of worker {worker}"
        case Stop():
            return "the end by early stopping"
        case Switch(mode):
            return f"the change to {mode}"
