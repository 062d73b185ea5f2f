"""A rank that waits to take the place of one that is lost, and until then costs next to nothing:
neither a replica nor data, and no module that it does not need for this."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING

from psdp.cast import Cast, Term
from psdp.errors import ProtocolError
from psdp.params import Array
from psdp.transport import Arrival, Endpoint, Room
from psdp.transport import messages as m
from psdp.workers import goodbye
from psdp.workers.listening import Listening, TermBegins

if TYPE_CHECKING:
    from psdp.workers.worker import Worker

NAP_S = 0.05
"""Between two looks. At 1 ms it takes 2 % of a core, at this 0.2 %."""


class Spare:
    """Waits to be called: by an answer to what it has not asked, which is the weights, with orders
    for the workers of a rank that is lost; or by a term in which such workers are its own. From
    then on it is a :class:`Worker`.

    Args:
        job: as much of it as a spare rank knows.
        most_bytes: of a payload that may come.
        make: makes that worker, in the present term, with what has heard until then; what goes
            wrong there goes wrong on a rank that computes.
        signalled: returns the name of a signal that asked this rank to end, or None.
    """

    replaceable = True
    leads = False

    def __init__(
        self,
        job: Cast,
        endpoint: Endpoint,
        most_bytes: int,
        make: Callable[[Cast, Listening], Worker],
        signalled: Callable[[], str | None] = lambda: None,
    ) -> None:
        self._job = job
        self._endpoint = endpoint
        self._listening = Listening(job, endpoint, most_bytes)
        self._make = make
        self._signalled = signalled
        self._told = False
        self._asked: list[Arrival] = []
        """What the worker is to hear of."""
        self.worker: Worker | None = None
        endpoint.landing = self._landing

    @property
    def job(self) -> Cast:
        """The job, as this rank knows it by now."""
        return self._job if self.worker is None else self.worker.job

    def run(self) -> None:
        """Wait; then, if it is called, do what the leader orders until it says stop.

        Raises:
            PeerLost: a server is gone, and nobody holds its shard.
        """
        while self.worker is None:
            try:
                if self._is_over():
                    return
            except TermBegins as begins:
                self._begin(begins.term)
        self._listening.keep(self._asked)
        self.worker.run()

    def _is_over(self) -> bool:
        """Look once; say whether the run is over, for this rank at least.

        Raises:
            TermBegins: it may be called by that.
        """
        match self._listening.next(timeout_s=0):
            case None if self.worker is None:
                self._heed_signal()
                time.sleep(NAP_S)
            case Arrival(_, m.Answer() | m.SaveWorker()) as arrival:
                self._asked.append(arrival)
            case Arrival(peer, m.Finish()) if peer in self.job.holders[0]:
                return True
            case Arrival(peer, message):
                raise ProtocolError(f"server rank {peer} sent {message} to a spare rank")
        return False

    def _begin(self, term: Term) -> None:
        self._job, self._told = replace(self._job, term=term), False
        if self.worker is not None:  # which an answer has called, that is void
            self.worker.begin(term)
        elif self._endpoint.rank in dict(term.moved).values():
            self.worker = self._make(self._job, self._listening)

    def _landing(self, peer: int, message: m.Message) -> Array | Room:
        """A payload is coming: make what it is to land in, and whatever else it takes."""
        if not isinstance(message, m.Answer):
            raise ProtocolError(f"rank {peer} sent a payload with {message}")
        self.worker = self._make(self._job, self._listening)
        return self._endpoint.landing(peer, message)

    def _heed_signal(self) -> None:
        """Tell the leader, once, of a signal that asked this rank to end; it lets it go."""
        if not self._told and (by := self._signalled()) is not None:
            self._endpoint.send(self.job.leader, m.Signalled(signal.Signals[by]))
            self._told = True

    def fail(self, error: BaseException, status: int) -> None:
        """Tell the leader that this rank cannot go on, and give it the time to save the weights."""
        listen = self._endpoint.receive if self.worker is None else self.worker.exchange.move_on
        goodbye.part(self._endpoint, self.job.leader, error, status, listen)
