"""The order in which a recorded run's events came, imposed on a later run.

Everything else of a run follows from its settings, so a run that takes the same events in the same
order ends with the same bits, whatever the timing. Loss and sum of squares of a push show where a
replay diverges: at its first gradient that differs. What an optimizer of a worker's own has
gathered is lost with a move.
"""

from __future__ import annotations

import json
import math
from collections.abc import Container, Sequence
from dataclasses import replace
from pathlib import Path

from psdp.errors import ReplayError
from psdp.protocol import Choice, Event, Leave, Move, Pull, Push, Stop, Switch
from psdp.records.changes import Stayed, read_choices
from psdp.records.events import Events, Happened, NewTerm, Seal, line_of, read_record
from psdp.records.folder import CONFIG, SUMMARY

BEFORE = "0.1.0"
"""The version in which workers had the numbers of their ranks, after those of all servers, and
squares were summed in another order: what it recorded of a norm differs in its last bits, by this
much at most of float32. Losses do not differ, as long as norms clip nothing."""
NORM_TOLERANCE = 1e-5


class Script:
    """Holds back what happens until its turn in what is to happen.

    Args:
        expected: what that is. Of a push it says which gradient that is and how fast it was.
        source: where that stands.
        numbers: of the lines there.
        stayed: the last time that it was chosen there to change no mode.
    """

    def __init__(
        self,
        expected: Sequence[Happened],
        source: str,
        numbers: Sequence[int],
        stayed: Stayed | None = None,
    ) -> None:
        self.source = source
        self._expected = expected
        self._numbers = numbers
        self._stayed = stayed
        self._done = 0
        self._held: dict[int, Happened] = {}

    @property
    def over(self) -> bool:
        """Whether all of it has happened."""
        return self._done == len(self._expected)

    @property
    def term(self) -> NewTerm | None:
        """The term that begins now, if one does."""
        event = None if self.over else self._expected[self._done].event
        return event if isinstance(event, NewTerm) else None

    def now(self) -> float:
        """Return when the latest event came there, in seconds; 0 before the first."""
        return self._expected[self._done - 1].time_s if self._done else 0.0

    def stays(self, version: int, mode: str) -> Choice | None:
        """Return why this mode is not changed at this version, once, where that is known."""
        stayed = self._stayed
        if stayed is None or version < stayed.version or mode != stayed.choice.mode:
            return None
        self._stayed = None
        return stayed.choice

    def hold(self, worker: int, happened: Happened) -> None:
        """Keep what a worker did until its turn. It waits for an answer, so it does one thing."""
        assert worker not in self._held
        self._held[worker] = happened

    def next(self, waiting: Container[int]) -> Happened | None:
        """Return what is next, if it has happened; a push as fast as it is to be.

        Args:
            waiting: workers that have not been answered.

        Raises:
            ReplayError: something else happened, or cannot happen any more.
        """
        if self.over:
            return None
        expected = self._expected[self._done]
        match event := expected.event:
            case Move() | Leave() | Stop() | Switch() | NewTerm():
                self._done += 1
                return expected
            case Pull(worker) | Push(worker):
                pass
        happened = self._held.get(worker)
        if happened is None:
            if worker in waiting:
                raise self._diverged(expected, "it waits for an answer")
            return None
        if not self.allows(expected, happened):
            raise self._diverged(expected, f"it was {_describe(happened)}")
        del self._held[worker]
        self._done += 1
        return replace(expected, event=_as_it_was(event, happened.event))

    def release(self) -> list[Happened]:
        """Give up what is held: the order does not matter any more."""
        held = [self._held[worker] for worker in sorted(self._held)]
        self._held.clear()
        return held

    def begin_term(self) -> None:
        """Forget what is held: it is void."""
        self._held.clear()

    def discard(self, worker: int) -> None:
        """Forget what is held of a worker."""
        self._held.pop(worker, None)

    def allows(self, expected: Happened, happened: Happened) -> bool:
        """Say whether what happened is what was to happen."""
        match expected.event, happened.event:
            case Push(worker, work=due), Push(other, work=own):
                return (worker, due.clock, due.version, due.steps) == (
                    other,
                    own.clock,
                    own.version,
                    own.steps,
                )
        return expected.event == happened.event

    def _diverged(self, expected: Happened, instead: str) -> ReplayError:
        return ReplayError(
            f"the replay diverges at line {self._numbers[self._done]} of {self.source}: expected "
            f"{_describe(expected)}, but {instead}. Do code, settings, corpus, kernels and "
            "processor equal those of the recorded run?"
        )


class Replay(Script):
    """What a recorded run did.

    Raises:
        ReplayError: the record cannot be read, or is damaged.
    """

    def __init__(self, path: Path) -> None:
        try:
            events = read_record(path)
        except OSError as error:
            raise ReplayError(
                f"{path}: {error.strerror}; --replay takes the folder of a run that was made with "
                "--record, and --resume what that start of it resumed"
            ) from error
        check_end(path, events)
        expected = events.happened
        version, servers = _told_by(path.parent)
        self._of_before = version == BEFORE
        if self._of_before:
            expected = [_numbered(happened, 1 - servers) for happened in expected]
        made, stayed = read_choices(path.parent, int(path.stem.rpartition("-")[2]))
        switches = [n for n, each in enumerate(expected) if isinstance(each.event, Switch)]
        if len(switches) == len(made):  # else a server was lost, and some of them are void
            for n, choice in zip(switches, made, strict=True):
                expected[n] = replace(expected[n], choice=choice)
        super().__init__(expected, str(path), events.numbers, stayed)

    def allows(self, expected: Happened, happened: Happened) -> bool:
        """Say whether what happened is what the record says, the numbers of pushes included."""
        a, b = line_of(expected), line_of(happened)
        if a[0] == b[0] == "push":
            a[5] = b[5] = 0  # its speed
            if self._of_before and _alike(expected.event, happened.event):
                a[7] = b[7]
        return a == b


def check_end(path: Path, events: Events) -> None:
    """See that a record goes as far as the summary of its run says.

    Raises:
        ReplayError: it does not.
    """
    try:
        told = Seal.from_record(json.loads((path.parent / SUMMARY).read_bytes()).get("events"))
    except (OSError, ValueError, AttributeError):
        return  # the run was cut off, or is of a version that told nothing
    if told is None or told.file != path.name or told == events.seal:
        return
    seal = events.seal
    if seal is not None and seal.start != told.start:
        return  # the summary is of another start
    lines = 0 if seal is None else seal.line
    raise ReplayError(
        f"{path} is damaged: it has {lines} whole lines, chained by hashes, {SUMMARY} says that "
        f"there were {told.line}, of which the last has the hash {told.hash}"
    )


def _alike(expected: Event | NewTerm, happened: Event | NewTerm) -> bool:
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


def _as_it_was(expected: Event, happened: Event | NewTerm) -> Event:
    """Return an event that was to happen, as it did but for its speed."""
    if isinstance(expected, Push) and isinstance(happened, Push):
        due = expected.work
        work = replace(happened.work, step_s=due.step_s, busy_s=due.busy_s, cpu_s=due.cpu_s)
        return replace(happened, work=work)
    return expected


def _describe(happened: Happened) -> str:
    match happened.event:
        case Pull(worker):
            return f"a pull of worker {worker}"
        case Push(worker, work=work):
            made = f"gradient {work.clock}"
            if work.steps != 1:
                made = f"what {work.steps} steps from gradient {work.clock} on made"
            return (
                f"{made} of worker {worker} on version {work.version}, of loss "
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
        case NewTerm(number):
            return f"the begin of term {number}"
