"""What servers answer a rank that computes, and how far those have come that stand by for them."""

from __future__ import annotations

from collections import Counter, defaultdict, deque

from psdp.job import Job
from psdp.transport import Arrival, Endpoint
from psdp.transport import messages as m
from psdp.workers.listening import Listening


class Answers:
    """Takes what arrives in one term."""

    def __init__(self, job: Job, endpoint: Endpoint, listening: Listening) -> None:
        self._job, self._endpoint, self._listening = job, endpoint, listening
        # One that has workers stop may be followed by the next at once.
        self._arrived: defaultdict[int, deque[m.Answer]] = defaultdict(deque)
        self._behind: Counter[int] = Counter()
        """Of each rank that stands by, the answers that it has not come past."""

    def take(self, arrival: Arrival | None) -> None:
        """Take what has arrived.

        Raises:
            ProtocolError: it is nothing that a rank that computes is sent.
        """
        match arrival:
            case Arrival(peer, m.Answer() as answer):
                self._arrived[peer].append(answer)
            case Arrival(peer, m.Follows()) if peer in self._job.standbys:
                self._behind[peer] -= 1
            case Arrival(peer, m.Prepare()) if peer == self._job.leader:  # it has no workers
                self._endpoint.send(peer, m.Prepared(computes=True))
            case _:
                self._listening.expects_nothing(arrival)

    def ends(self, arrival: Arrival | None) -> bool:
        """Say whether what has arrived is word that the run is over."""
        match arrival:
            case Arrival(peer, m.Finish()):
                return peer in self._job.holders[0]
        return False

    @property
    def complete(self) -> bool:
        """Whether all servers have answered."""
        return all(self._arrived[server] for server in self._job.servers)

    def pop(self) -> m.Answer:
        """Return rank 0's answer, which has orders; all servers have answered."""
        first, *_ = [self._arrived[server].popleft() for server in self._job.servers]
        return first

    def ordered(self) -> None:
        """An answer has orders, which may have left before those who stand by had come as far."""
        if self._job.answers_at_once:
            self._behind.update(self._job.standbys)

    @property
    def followed(self) -> bool:
        """Whether all who stand by have come past the answers with orders: until then what was
        pushed before them may still lie there."""
        return all(answers <= 0 for answers in self._behind.values())
