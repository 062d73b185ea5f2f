"""Deciding on rank 0: events reach the policy in the order in which they happen, or in that of a
record; what it decides goes to all servers."""

from __future__ import annotations

from collections.abc import Collection
from typing import Protocol

from psdp.errors import ReplayError
from psdp.protocol import Adaptive, Effect, Leave, Move, Policy, Pull, Push, Stop, Switch
from psdp.records.events import Happened, NewTerm
from psdp.records.reasons import StoppedBy
from psdp.records.record import Record
from psdp.records.recorder import Recorder
from psdp.records.replay import Script
from psdp.servers.answering import Answering
from psdp.servers.choosing import Choosing
from psdp.servers.ending import Ended, Stopped
from psdp.servers.evaluating import Evaluating
from psdp.servers.serving import Serving


class Places(Protocol):
    """Who has workers move, and leave."""

    def depart(self, worker: int) -> None:
        """Do without a worker from now on."""

    def send_home(self, worker: int) -> None:
        """Let a worker go that the run does without."""

    def move(self, worker: int, rank: int) -> None:
        """Let another rank compute for a worker."""


class Closes(Protocol):
    """Who has versions evaluated."""

    @property
    def evaluating(self) -> Collection[int]:
        """Versions whose evaluations are not over."""

    def close_but(self, versions: Collection[int]) -> None:
        """Evaluations of others are over."""


class Enacts(Protocol):
    """Who does what is decided."""

    def enact(self, effect: Effect, *, noted: bool) -> None:
        """Do this; ``noted``: the event that it comes from is in the record."""

    @property
    def membership(self) -> Places:
        """What becomes of workers."""

    @property
    def course(self) -> Closes:
        """What becomes of evaluations."""


class Deciding:
    """Asks the policy.

    Args:
        enacts: does what is decided, on ``serving`` and all other servers.
        record: takes down what happens.
        replay: says what happens next.
        choosing: proposes changes of mode.

    Attributes:
        departed: workers that a replay does without, though they are there.
        stopped_by: why the budget is what it is.
        term_ends: whether a replay has come to where another term began.
    """

    def __init__(
        self,
        policy: Policy | Adaptive,
        enacts: Enacts,
        serving: Serving,
        evaluating: Evaluating,
        answering: Answering,
        recorder: Recorder,
        *,
        record: Record | None = None,
        replay: Script | None = None,
        choosing: Choosing | None = None,
    ) -> None:
        self.policy = policy
        self.departed: set[int] = set()
        self.stopped_by = StoppedBy.BUDGET
        self.term_ends = False
        self._enacts = enacts
        self._recorder = recorder
        self._serving = serving
        self._evaluating = evaluating
        self._answering = answering
        self._record = record
        self._replay = replay
        self.choosing = choosing

    @property
    def replays(self) -> bool:
        """Whether what happens next is said by a record."""
        return self._replay is not None and not self.policy.drained

    def happened(self, event: Pull | Push) -> None:
        """Let the policy decide on what a worker did, now or when a replay comes to it."""
        if self.term_ends:
            return  # it is void
        if event.worker in self.departed:
            self._enacts.membership.send_home(event.worker)
        elif self._replay is None or self.policy.drained:
            self._decide(Happened(event))
        else:
            self._replay.hold(event.worker, Happened(event))
            self.follow()

    def moved(self, worker: int, rank: int) -> None:
        """Another rank computes for a worker."""
        if self._replay is not None:
            self._replay.discard(worker)
        self._decide(Happened(Move(worker, rank)))

    def left(self, worker: int) -> None:
        """A worker is gone."""
        if self.choosing is not None:
            self.choosing.left(worker)
        self._decide(Happened(Leave(worker)))

    def answered(self, worker: int) -> None:
        """A worker was given weights to train on."""
        if self.choosing is not None:
            self.choosing.answered(worker)

    def stop_early(self) -> None:
        """Hand out no new work, unless a replay says when that is."""
        if self._replay is None:
            self._stop_early()

    def follow(self) -> None:
        """Do what is next in the record, if there is one, as far as it has happened.

        Raises:
            Stopped: the record ends before its run did.
        """
        replay = self._replay
        if replay is None:
            return
        while (happened := self._next(replay)) is not None:
            match happened.event:
                case NewTerm() as term:
                    for worker, rank in term.moved:
                        self._enacts.membership.move(worker, rank)
                    self._evaluating.count_but(term.open)
                    self._enacts.course.close_but(term.open)
                    replay.begin_term()
                    self.term_ends = True
                case Leave(worker):
                    self._depart(worker, replay)
                case Move(worker, rank):
                    self._enacts.membership.move(worker, rank)
                case Stop():
                    self._stop_early()
                case _:
                    self._decide(happened)
        if self.policy.drained:
            self.release()
        elif replay.over and self._serving.idle:
            error = Ended(f"{replay.source} ends before its run did", ReplayError.exit_code)
            raise Stopped(StoppedBy.END_OF_RECORD, error)

    def _next(self, replay: Script) -> Happened | None:
        stuck = self._stuck()
        if self.policy.drained or self.term_ends or self._is_early(replay.term, stuck):
            return None
        return replay.next(stuck)

    def _is_early(self, term: NewTerm | None, stuck: set[int]) -> bool:
        """Say whether an evaluation is under way that was over when a term began. It may have ended
        with a pull of which no line tells; where it did with one after a void push, it never will
        here."""
        if term is None or stuck >= self._answering.live:
            return False
        return not {*self._enacts.course.evaluating} <= {*term.open}

    def release(self) -> None:
        """After the last update: let count what a replay has held back, in whatever order. Before
        any of these workers is answered, or it would be told to evaluate again what it has."""
        if self._replay is not None:
            for happened in self._replay.release():
                self._decide(happened)

    def _stop_early(self) -> None:
        self.stopped_by = StoppedBy.EARLY_STOP
        self._decide(Happened(Stop()))

    def _depart(self, worker: int, replay: Script) -> None:
        """A worker was lost here in the record; its twin is sent home when it next asks."""
        replay.discard(worker)
        self.departed.add(worker)
        self._enacts.membership.depart(worker)

    def _stuck(self) -> set[int]:
        """Return the workers that wait for an answer, unless one may be on its way to them."""
        standing = self._serving.idle and not self.policy.drained
        return self._answering.unanswered if standing else set()

    def _decide(self, happened: Happened) -> None:
        event = happened.event
        assert not isinstance(event, NewTerm)
        if isinstance(event, Pull):
            self._evaluating.count(event.worker)
        if isinstance(event, Pull | Push):
            self._answering.counted(event.worker)
        noted = not self.policy.drained
        if isinstance(event, Switch):
            self._recorder.switched(event.mode, happened.choice)
        if isinstance(event, Push) and self.choosing is not None:
            self.choosing.pushed(event.worker, event.work)
        effects = self.policy.handle(event)
        if self._record is not None and noted:
            self._record.note(happened, self.policy.version)
        for effect in effects:
            self._enacts.enact(effect, noted=noted)
        self._answering.answer_all()
        if isinstance(event, Push):
            self._choose()

    def _choose(self) -> None:
        """Go over to another mode where that is clearly better; in a replay that is an event."""
        policy, choice = self.policy, None
        if not isinstance(policy, Adaptive) or policy.drained:
            return
        if self._replay is not None:
            choice = self._replay.stays(policy.version, policy.mode)
        elif self.choosing is not None:
            choice = self.choosing.choose(policy.mode, len(self._answering.live))
        if choice is None:
            return
        if choice.mode == policy.mode:
            self._recorder.stayed(choice)
        else:
            self._decide(Happened(Switch(choice.mode), choice=choice))
