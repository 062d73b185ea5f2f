"""A rank that waits to take the place of one that is lost, and until then costs next to nothing:
neither a replica nor data, and no module that it does not need for this."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Protocol

from psdp.cast import Cast, Term
from psdp.errors import ProtocolError
from psdp.params import Array
from psdp.transport import Arrival, Endpoint, Room
from psdp.transport import messages as m
from psdp.workers import goodbye
from psdp.workers.listening import Listening, TermBegins

if TYPE_CHECKING:
    from psdp.workers.worker import Worker

NAP_S = 0.1
"""Between two looks: who is called has time. At 1 ms it takes 2 % of a core, at this 0.1 %."""


class Holds(Protocol):
    """What a rank does that holds a shard."""

    @property
    def job(self) -> Cast: ...

    @property
    def leads(self) -> bool: ...

    def run(self) -> None: ...

    def leaves_it_to_another(self, error: BaseException) -> bool: ...

    def fail(self, error: BaseException, status: int) -> None: ...


class Joins(Protocol):
    """A rank that is about to hold a shard, of a number."""

    number: int

    @property
    def role(self) -> Holds | None:
        """What it does then, once that is so."""

    def heard(self, peer: int, message: m.Message) -> None:
        """Take a message of a rank that holds a shard."""

    def landing(self, peer: int, message: m.Message) -> Array | Room:
        """Return where a payload lands."""


class Spare:
    """Waits to be called. To compute: it makes a :class:`Worker`, and is that from when it gets an
    answer, which is the weights, with orders for workers that were another rank's, or a term begins
    in which such workers are its own. Or to stand by for a server: it makes the shard, and holds it
    from the next term on.

    Args:
        job: as much of it as a spare rank knows.
        most_bytes: of a payload that may come.
        compute: makes that worker, in the present term, with what has heard until then; what goes
            wrong there goes wrong on a rank that computes.
        stand_by: makes what it takes to hold a shard.
        signalled: returns the name of a signal that asked this rank to end, or None.
    """

    def __init__(
        self,
        job: Cast,
        endpoint: Endpoint,
        most_bytes: int,
        compute: Callable[[Cast, Listening], Worker],
        stand_by: Callable[[int, Listening], Joins],
        signalled: Callable[[], str | None] = lambda: None,
    ) -> None:
        self._job = job
        self._endpoint = endpoint
        self._listening = Listening(job, endpoint, most_bytes)
        self._compute = compute
        self._stand_by = stand_by
        self._signalled = signalled
        self._told = False
        self._asked: list[Arrival] = []
        """What the worker is to hear of."""
        self._made: tuple[Worker, Callable[[int, m.Message], Array | Room]] | None = None
        """The worker that this rank is to be, and where its payloads land."""
        self.worker: Worker | None = None
        self.joining: Joins | None = None
        endpoint.landing = self._landing

    @property
    def holds(self) -> Holds | None:
        """What this rank does, if it has come to hold a shard."""
        return None if self.joining is None else self.joining.role

    @property
    def job(self) -> Cast:
        """The job, as this rank knows it by now."""
        role = self.worker or self.holds
        return self._job if role is None else role.job

    @property
    def leads(self) -> bool:
        """Whether this rank leads the run."""
        return self.holds is not None and self.holds.leads

    @property
    def replaceable(self) -> bool:
        """Whether others do what it does if it is lost."""
        return self.holds is None

    def run(self) -> None:
        """Wait; then, if it is called, do what it is called for to the end of the run.

        Raises:
            PeerLost: a server is gone, and nobody holds its shard.
        """
        while self.worker is None and self.holds is None:
            try:
                if self.look():
                    return
            except TermBegins as begins:
                self._begin(begins.term)
        if self.worker is not None:
            self._listening.keep(self._asked)
            self.worker.run()
        elif self.holds is not None:
            self.holds.run()

    def look(self) -> bool:
        """Look once; say whether the run is over, for this rank at least.

        Raises:
            TermBegins: it may be called by that.
        """
        naps = self.joining is None  # else others wait for it, or soon will
        match self._listening.next(timeout_s=0 if naps else NAP_S):
            case None if self.worker is None:
                self._heed_signal()
                time.sleep(NAP_S if naps else 0)
            case Arrival(_, m.Answer() | m.Follows() | m.SaveWorker()) as arrival:
                self._asked.append(arrival)
            case Arrival(peer, m.Finish()) if peer in self.job.holders[0]:
                return True
            case Arrival(peer, m.Prepare(())) if peer == self.job.leader:
                self._prepare()
                self._endpoint.send(peer, m.Prepared(computes=True))
            case Arrival(peer, m.Prepare((shard,))) if peer == self.job.leader:
                if self.joining is None or self.joining.number != shard:
                    self.joining = self._stand_by(shard, self._listening)
                self._endpoint.send(peer, m.Prepared(computes=False))
            case Arrival(peer, message) if self.joining is not None:
                self.joining.heard(peer, message)
            case Arrival(peer, message):
                raise ProtocolError(f"server rank {peer} sent {message} to a spare rank")
        return False

    def _begin(self, term: Term) -> None:
        self._job, self._told = replace(self._job, term=term), False
        self._asked.clear()
        if self._made is not None:
            self._made[0].begin(term)
        if self._endpoint.rank in dict(term.moved).values():
            self._work()

    def _prepare(self) -> tuple[Worker, Callable[[int, m.Message], Array | Room]]:
        """Make what it takes to compute, unless it is made."""
        if self._made is None:
            worker = self._compute(self._job, self._listening)
            self._made = worker, self._endpoint.landing
            self._endpoint.landing = self._landing
        return self._made

    def _work(self) -> None:
        """Be a worker from now on."""
        self.worker, self._endpoint.landing = self._prepare()

    def _landing(self, peer: int, message: m.Message) -> Array | Room:
        """A payload is coming: be what it is for."""
        if isinstance(message, m.Answer):
            self._work()
            return self._endpoint.landing(peer, message)
        if self.joining is None:
            raise ProtocolError(f"rank {peer} sent a payload with {message}")
        return self.joining.landing(peer, message)

    def _heed_signal(self) -> None:
        """Tell the leader, once, of a signal that asked this rank to end; it lets it go."""
        if not self._told and (by := self._signalled()) is not None:
            self._endpoint.send(self.job.leader, m.Signalled(signal.Signals[by]))
            self._told = True

    def leaves_it_to_another(self, error: BaseException) -> bool:
        """Say whether this rank has come to hold a shard with which another one goes on."""
        return self.holds is not None and self.holds.leaves_it_to_another(error)

    def fail(self, error: BaseException, status: int) -> None:
        """Tell the leader that this rank cannot go on, and give it the time to save the weights."""
        if self.holds is not None:
            self.holds.fail(error, status)
            return
        listen = self._endpoint.receive if self.worker is None else self.worker.exchange.move_on
        goodbye.part(self._endpoint, self.job.leader, error, status, listen)
