"""Deciding once more on the events of a start, and counting what comes of it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from psdp.audit.findings import Contradiction, Place, expect
from psdp.audit.jobs import Header, header_of
from psdp.audit.ledger import Ledger
from psdp.errors import ProtocolError
from psdp.policies import make_policy
from psdp.protocol import (
    Adaptive,
    Apply,
    Drop,
    Effect,
    Event,
    Leave,
    Move,
    Pull,
    Push,
    SendWeights,
    Stop,
    Switch,
    Work,
)
from psdp.records.events import Line, NewTerm, Seal, event_of, read_lines, void_lines

Updated = Callable[[Apply, float, Push | Leave], None]
"""Told of each update: its mean loss, and the event that made it due."""


def has_hashes(path: Path) -> bool:
    """Say whether a file of events has hashes, as those of psdp before 0.2 have not.

    Raises:
        OSError: it cannot be read.
    """
    first = next(read_lines(path), None)
    return first is None or first.hash is not None


class Chain:
    """The lines of a file of events, as their hashes bind them.

    Attributes:
        header: what its first line says.
        broken: the first line that does not follow from the one before.
        void: lines so far that a new term has made void.
        cut_off: whether a last line was cut off.

    Raises:
        OSError: the file cannot be read.
        Contradiction: its first line says nothing of a job.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.broken: int | None = None
        self.cut_off = False
        self.void = 0
        self._void = {number for lines in void_lines(path) for number in lines}
        self._lines = read_lines(path)
        try:
            self._begin()
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Read no further."""
        self._lines.close()

    def _begin(self) -> None:
        first, place = next(self._lines, None), Place(self.path, 1)
        if first is None or not first.whole:
            raise Contradiction("it is empty", place)
        if first.hash is None:
            raise Contradiction("its first line does not say of which job it is", place)
        self.start = first.hash
        self._last = first
        self._see(first)
        self.header: Header = header_of(first.content)

    def __iter__(self) -> Iterator[Line]:
        for line in self._lines:
            if not line.whole:
                self.cut_off = True
                return
            self._last = line
            if not line.follows:
                self._see(line)
            if line.number in self._void:
                self.void += 1
                continue
            yield line

    @property
    def seal(self) -> Seal:
        """Of the last line that was read."""
        return Seal(self.path.name, self.start, self._last.number, self._last.hash or "")

    def _see(self, line: Line) -> None:
        if not line.follows and self.broken is None:
            self.broken = line.number


class Deciding:
    """Decides on a start's events as rank 0 did.

    Args:
        updated: told of each update, once it is counted.

    Attributes:
        drained: whether the last update was decided.
    """

    def __init__(self, header: Header, ledger: Ledger, updated: Updated) -> None:
        self.job = header.job
        self.ledger = ledger
        self._updated = updated
        self._slots = {worker: slot for slot, worker in enumerate(self.job.workers)}
        self._units = self.job.units_per_gradient
        self.policy = make_policy(self.job, header.version, header.clocks, header.batches)
        self.drained = False
        self._holding = {*self.job.holding}
        """Ranks that hold a shard, or have held one."""

    @property
    def mode(self) -> str:
        """The mode that the run is in by now."""
        policy = self.policy
        return policy.mode if isinstance(policy, Adaptive) else self.ledger.mode

    def take(self, content: list[Any] | None) -> None:
        """Decide on the event of a line.

        Raises:
            Contradiction: it is none that could happen there.
        """
        try:
            event = event_of(content).event
        except (ValueError, TypeError):
            raise Contradiction("the line is no event") from None
        if isinstance(event, NewTerm):
            self._begin_term(event)
            return
        expect(not self.policy.drained, "there is an event after the last update")
        event = self._located(event)
        try:
            effects = self.policy.handle(event)
        except ProtocolError as error:
            raise Contradiction(str(error)) from error
        self._count(event, effects)
        self._follow(event, effects)
        self.drained = self.policy.drained

    def _begin_term(self, term: NewTerm) -> None:
        """Decide anew from a version on, as who took over did.

        Raises:
            Contradiction: that is not where the run was.
        """
        job, ledger = self.job, self.ledger
        expect(
            term.version == ledger.version,
            f"term {term.number} begins at version {term.version}, the run was at {ledger.version}",
        )
        for shard, rank in term.joined:
            may = rank in {*job.spares} - self._holding and 0 <= shard < len(job.servers)
            expect(may, f"rank {rank} was not spare, or there is no shard {shard}")
            self._holding.add(rank)
        expect(
            {*term.lost} <= self._holding - {*ledger.tally.lost},
            f"of the ranks {list(term.lost)} some held no shard, or were lost before",
        )
        for worker, rank in term.moved:
            self._located(Move(worker, rank))
            ledger.moved(worker, rank)
        self.policy = make_policy(job, ledger.version, ledger.clocks, ledger.uses.batches())
        ledger.begins_term(term)

    def _located(self, event: Event) -> Event:
        """Return an event with what its line does not say.

        Raises:
            Contradiction: it is of nobody.
        """
        job = self.job
        match event:
            case Push(worker, work=work) if worker in self._slots:
                grant = self.ledger.open.get(worker)
                batch = work.clock if grant is None else grant.batches.start
                units = work.steps * self._units
                expect(work.steps > 0, "a push is of no gradient")
                expect(work.counted <= units, f"{work.counted} of {units} units count")
                return Push(worker, self._slots[worker], _work(work, units, batch))
            case Move(worker, rank) if worker in job.workers:
                may = rank in {*job.worker_ranks} - self._holding
                expect(may, f"rank {rank} computes for no worker")
            case Pull(worker) | Leave(worker) if worker in job.workers:
                pass
            case Switch():
                expect(job.mode.chooses, f"a run in {job.mode} does not change its mode")
            case Stop():
                pass
            case _:
                raise Contradiction(f"there are the workers 1 to {job.workers[-1]} only")
        return event

    def _count(self, event: Event, effects: list[Effect]) -> None:
        ledger = self.ledger
        match event:
            case Pull(worker):
                ledger.pulled(worker)
            case Push(worker):
                dropped = any(isinstance(e, Drop) and e.worker == worker for e in effects)
                ledger.pushed(event, dropped=dropped)
            case Move(worker, rank):
                ledger.moved(worker, rank)
            case Leave(worker):
                ledger.left_by(worker)
            case Stop():
                ledger.ending = True
            case Switch(mode):
                ledger.switches(mode)

    def _follow(self, event: Event, effects: list[Effect]) -> None:
        for effect in effects:
            match effect:
                case Apply():
                    assert isinstance(event, Push | Leave)
                    loss = self.ledger.applied(effect)
                    self._updated(effect, loss, event)
                case SendWeights():
                    if self.mode != self.ledger.mode:
                        self.ledger.begins(self.mode)
                    self.ledger.granted(effect)


def _work(told: Work, units: int, batch: int) -> Work:
    """Return what a line says of a push, with what it does not say. (As quick as can be.)"""
    return Work(
        told.clock,
        told.version,
        units,
        batch,
        told.steps,
        told.loss,
        told.sum_of_squares,
        told.step_s,
        counted=told.counted,
    )
