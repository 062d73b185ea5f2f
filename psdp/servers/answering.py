"""Answers of rank 0: who waits for one, and whether it says to go on, to evaluate, or to stop."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass

from psdp.protocol import Hosting, SendWeights
from psdp.servers.evaluating import Evaluating
from psdp.servers.serving import Serving
from psdp.transport import messages as m
from psdp.transport.headers import MOST_ORDERED


@dataclass(frozen=True)
class Dismiss:
    """Decided after the last update: let this worker go, or hand it what it owes."""

    worker: int


@dataclass(frozen=True)
class AnswerRank:
    """Decided: send a rank the weights, with what was decided for some of its workers."""

    rank: int
    decided: tuple[SendWeights | Dismiss, ...]

    @property
    def workers(self) -> tuple[int, ...]:
        return tuple(each.worker for each in self.decided)


class Answering:
    """The workers of a run, the answers that they wait for, and the ranks that compute for them.

    A rank is answered when it has nothing left to do, with all that was decided for its workers by
    then: so it gets a version of the weights once, and computes what it can on it. It begins with
    its guests, which then wait for an answer while it computes for its own workers, and may move on
    with nothing in hand.

    Args:
        decide: decides, on all servers, to answer a rank.

    Attributes:
        live: workers that take part.
        unanswered: of these, those that wait.
    """

    def __init__(
        self,
        hosting: Hosting,
        serving: Serving,
        evaluating: Evaluating,
        decide: Callable[[AnswerRank], None],
    ) -> None:
        self.live = set(serving.job.workers)
        self.unanswered: set[int] = set()
        self._hosting = hosting
        self._serving = serving
        self._evaluating = evaluating
        self._decide = decide
        self._due: dict[tuple[int, int], SendWeights | Dismiss] = {}
        """By rank and worker, what was decided where the rank is busy."""
        # All begin with a question.
        self._in_hand = {rank: set(hosting.hosted(rank)) for rank in hosting.ranks}
        """Of each rank, the workers of which it has an order that is not carried out."""

    def asked(self, worker: int) -> None:
        """A worker waits from now on."""
        self.unanswered.add(worker)

    def counted(self, worker: int) -> None:
        """What a worker did, or its question, counts: its order is carried out. (In a replay that
        may be later than it asked, and what its rank is answered with depends on it.)"""
        self._in_hand[self._host(worker)].discard(worker)

    def has_in_hand(self, rank: int, worker: int) -> bool:
        """Say whether a rank has an order for a worker that is not carried out, as far as what it
        did counts."""
        return worker in self._in_hand[rank]

    def waits(self, worker: int) -> bool:
        """Say whether a worker waits for an answer, with nothing in hand."""
        return worker in self.unanswered and not self.has_in_hand(self._host(worker), worker)

    def moved(self, worker: int, before: int, *, fence: bool) -> None:
        """Another rank computes for a worker, which waits for an answer there; the one before is to
        be told so, at once or when it next does something for it."""
        self._due.pop((before, worker), None)
        if fence:
            self.fence(before, worker)
        self.unanswered.add(worker)

    def fence(self, rank: int, worker: int) -> None:
        """A rank has done something for a worker that is another's: let it do so no more."""
        self._in_hand[rank].discard(worker)
        self._due[rank, worker] = Dismiss(worker)
        self.answer_all()

    def left(self, worker: int) -> None:
        """A worker takes part no more: others do its part of evaluations."""
        self.live.discard(worker)
        self.unanswered.discard(worker)
        self._due.pop((self._host(worker), worker), None)
        self.counted(worker)
        self._evaluating.leave(worker, self.live)

    def go_on(self, decided: SendWeights) -> None:
        """Answer a worker as was decided, with the next :meth:`answer_all`."""
        self._due[self._host(decided.worker), decided.worker] = decided

    def dismiss_all(self) -> None:
        """After the last update: hand each waiting worker its evaluation, or let it go."""
        last, evaluating = self._evaluating.last, self._evaluating
        if last is None:
            return
        over = not evaluating.is_open(last)
        for worker in self.unanswered:
            place = self._host(worker), worker
            if place not in self._due and (over or evaluating.owed_by(worker) is not None):
                self._due[place] = Dismiss(worker)
        self.answer_all()

    def send_home(self, worker: int) -> None:
        """Let a worker go."""
        self.unanswered.discard(worker)
        self.counted(worker)
        self._due[self._host(worker), worker] = Dismiss(worker)
        self.answer_all()

    def answer_all(self) -> None:
        """Answer the ranks that have nothing left to do, and for which something was decided."""
        of_rank: defaultdict[int, list[int]] = defaultdict(list)
        guests_first = sorted(self._due, key=lambda at: (not self._hosting.is_guest(at[1]), at))
        for rank, worker in guests_first:
            of_rank[rank].append(worker)
        for rank, workers in of_rank.items():
            if not self._in_hand[rank]:
                some = workers[:MOST_ORDERED]
                decided = tuple(self._due.pop((rank, worker)) for worker in some)
                own = {worker for worker in some if self._host(worker) == rank}
                self._in_hand[rank] |= own
                self.unanswered -= own
                self._decide(AnswerRank(rank, decided))

    def _host(self, worker: int) -> int:
        rank = self._hosting.host(worker)
        assert rank is not None, worker
        return rank

    def send(self, answer: AnswerRank) -> list[int]:
        """Send a rank the weights as they are now; return its workers that go on, and do not owe an
        evaluation first."""
        units, orders, going = self._serving.progress.units, [], []
        for decided in answer.decided:
            worker = decided.worker
            order: m.Order | None = None
            if self._host(worker) == answer.rank:
                order = self._evaluating.owed_by(worker)
            if order is None:
                match decided:
                    case SendWeights(_, _, clock, steps, batch, push):
                        order = m.Train(worker, clock, batch, steps, units, push)
                        going.append(worker)
                    case _:
                        order = m.Stop(worker)
                        self._in_hand[answer.rank].discard(worker)
            orders.append(order)
        self._serving.giving.answer(answer.rank, tuple(orders), answer.workers)
        return going
