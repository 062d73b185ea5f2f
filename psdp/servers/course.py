"""The course of a run at the rank that leads it: what is evaluated at its beginning, on its way and
at its end, and how it goes on when another term has begun."""

from __future__ import annotations

from collections.abc import Collection

from psdp.job import Job
from psdp.servers.answering import Answering
from psdp.servers.copies import Copies
from psdp.servers.deciding import Deciding
from psdp.servers.evaluating import Evaluating
from psdp.servers.membership import Earlier, Membership
from psdp.servers.noting import Noting
from psdp.servers.serving import Serving
from psdp.servers.telling import Telling
from psdp.transport import messages as m


class Course:
    """Has versions evaluated, and lets the workers go in the end.

    Args:
        earlier: what terms before this one have left.

    Attributes:
        closed: versions whose evaluations are over.
    """

    def __init__(
        self,
        job: Job,
        serving: Serving,
        evaluating: Evaluating,
        answering: Answering,
        deciding: Deciding,
        membership: Membership,
        copies: Copies,
        noting: Noting,
        telling: Telling,
        earlier: Earlier,
    ) -> None:
        self._job = job
        self._serving = serving
        self._evaluating = evaluating
        self._answering = answering
        self._deciding = deciding
        self._membership = membership
        self._copies = copies
        self._noting = noting
        self._telling = telling
        self.closed = set(earlier.closed)

    def begin(self) -> None:
        """Begin where the run is, which may have been cut off before it was evaluated there."""
        if self._job.term.number:
            self._take_up()
        if self._is_due:
            self._evaluate_now()

    @property
    def _is_due(self) -> bool:
        """Whether the present version is to be evaluated, and nobody has begun to."""
        progress, evaluating = self._serving.progress, self._evaluating
        known = evaluating.best.evaluated, *evaluating.versions, *self.closed
        return progress.evaluation_due and progress.version not in known

    def _take_up(self) -> None:
        """Go on where the term before this one ended."""
        version, saved = self._serving.progress.version, None
        self._membership.do_without()
        for copy in self._serving.giving.snapshots.held():
            if copy.version in self.closed:
                best = copy.version == self._evaluating.best.version
                if best and not self._copies.is_marked(copy):
                    saved = copy.version
                    self._copies.save(saved, best=True)
                else:
                    self._copies.let_go(copy.version)
            elif self._answering.live:
                if copy.version == version:  # the others need not have one
                    self._decide(m.TakeSnapshot(hold=True))
                self._evaluating.open(copy.version, copy.units, self._answering.live)
        if version and version != saved and not self._evaluating.is_open(version):
            # There is one rank less that holds it.
            self._decide(m.TakeSnapshot(hold=False))
        self._heed_patience()

    @property
    def evaluating(self) -> list[int]:
        """Versions whose evaluations are not over, at the end of a term or as the next begins."""
        held = {copy.version for copy in self._serving.giving.snapshots.held()}
        due = {self._serving.progress.version} if self._is_due else set()
        return sorted(held - self.closed | due)

    def close_but(self, versions: Collection[int]) -> None:
        """Evaluations of others are over by now, in the run that is replayed."""
        self.closed |= {*self.evaluating} - {*versions}

    def updated(self) -> None:
        """The shard is the next version."""
        progress = self._serving.progress
        if progress.evaluation_due and self._answering.live:
            self._evaluating.open(progress.version, progress.units, self._answering.live)

    def drain(self, version: int) -> None:
        """Every gradient is applied: evaluate and save the last version, then let all go."""
        evaluating = self._evaluating
        evaluating.last = version
        if self._job.term.number and version == evaluating.best.evaluated:
            self._noting.stop_clock()  # all this was done before the term began
        elif self._answering.live and not evaluating.is_open(version):
            self._evaluate_now()
        self._deciding.release()
        self._answering.dismiss_all()

    def _evaluate_now(self) -> None:
        """Evaluate the present version, where the other servers do not know that it is due."""
        progress = self._serving.progress
        self._decide(m.TakeSnapshot(hold=True))
        self._evaluating.open(progress.version, progress.units, self._answering.live)

    def _decide(self, told: m.Message) -> None:
        self._telling.decide(told, told)

    def evaluated(self, version: int) -> None:
        """The evaluation of a version is over."""
        self.closed.add(version)
        if version == self._evaluating.last:
            self._noting.stop_clock()
            self._answering.dismiss_all()
        else:
            self._heed_patience()

    def _heed_patience(self) -> None:
        patience = self._job.config.run.early_stop_patience
        if patience and self._evaluating.best.evaluations_since >= patience:
            self._deciding.stop_early()
