"""Answers of rank 0: who waits for one, and whether it says to go on, to evaluate, or to stop."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from psdp.protocol import SendWeights
from psdp.servers.evaluating import Evaluating
from psdp.servers.serving import Serving
from psdp.transport import messages as m


class Answering:
    """The workers of a run, and the answers that they wait for.

    Args:
        decide_to_dismiss: decides that a worker is let go, or handed what it owes.

    Attributes:
        live: workers that are there.
        unanswered: of these, those that wait.
    """

    def __init__(
        self,
        workers: Iterable[int],
        serving: Serving,
        evaluating: Evaluating,
        decide_to_dismiss: Callable[[int], None],
    ) -> None:
        self.live = set(workers)
        self.unanswered: set[int] = set()
        self._serving = serving
        self._evaluating = evaluating
        self._decide_to_dismiss = decide_to_dismiss

    def asked(self, rank: int) -> None:
        """A worker waits from now on."""
        self.unanswered.add(rank)

    def left(self, rank: int) -> None:
        """A worker computes no more: others do its part of evaluations."""
        self.live.discard(rank)
        self.unanswered.discard(rank)
        self._evaluating.leave(rank, self.live)

    def go_on(self, answer: SendWeights) -> bool:
        """Send a worker the weights, to go on as was decided; say whether it does, and does not owe
        an evaluation first."""
        units = self._serving.progress.units
        order = m.Train(answer.clock, answer.batch, answer.steps, units, answer.push)
        return self._send(answer.rank, order)

    def stop(self, rank: int) -> bool:
        """Send a worker the last weights, to stop; say whether it does, and does not owe an
        evaluation first."""
        return self._send(rank, m.Stop())

    def dismiss(self, rank: int) -> None:
        """After the last update: hand a waiting worker its evaluation, or let it go."""
        last, evaluating = self._evaluating.last, self._evaluating
        if last is None or rank not in self.unanswered:
            return
        if evaluating.owed_by(rank) is not None or not evaluating.is_open(last):
            self.send_home(rank)

    def dismiss_all(self) -> None:
        """Do so with all who wait."""
        for rank in sorted(self.unanswered):
            self.dismiss(rank)

    def send_home(self, rank: int) -> None:
        """Let a worker go."""
        self.unanswered.discard(rank)
        self._decide_to_dismiss(rank)

    def _send(self, rank: int, order: m.Train | m.Stop) -> bool:
        self.unanswered.discard(rank)
        owed = self._evaluating.owed_by(rank)
        self._serving.send_weights(rank, owed or order)
        return owed is None
