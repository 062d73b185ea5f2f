"""Rank 0: it serves its shard as every server does, and has its helpers decide, evaluate, keep,
record and end for all."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from psdp.checkpoint import CheckpointStore, Elsewhere
from psdp.job import Job
from psdp.policies import make_policy
from psdp.protocol import Apply, Chooser, Drained, Drop, Effect, SendWeights
from psdp.protocol import order as o
from psdp.records.events import Record
from psdp.records.metrics import Best
from psdp.records.profile import Profile
from psdp.records.reasons import StoppedBy
from psdp.records.recorder import Recorder
from psdp.records.replay import Replay
from psdp.servers.answering import Answering, AnswerRank
from psdp.servers.choosing import Choosing
from psdp.servers.copying import Copying
from psdp.servers.deciding import Deciding
from psdp.servers.ending import Ending, asked_to_end, failed
from psdp.servers.evaluating import Evaluating
from psdp.servers.keeping import Keeping
from psdp.servers.leaving import Leaving
from psdp.servers.means import works_of
from psdp.servers.membership import Membership
from psdp.servers.noting import Noting
from psdp.servers.serving import WRITE_S, Serving
from psdp.transport import Sending
from psdp.transport import messages as m
from psdp.transport.headers import MOST_INCLUDED


class Leader:
    """Leads a run from rank 0.

    Args:
        identity: what a checkpoint says of the job beside its progress (settings, tokenizer, ...).
        best: of the run that this one resumes.
        elsewhere: copies checkpoints there.
        record: takes down what happens.
        replay: says what happens next.
        signalled: returns the name of a signal that asked this rank to end, or None.
        gone: returns the ranks that are no more, as the launcher tells, and why it does.
    """

    def __init__(
        self,
        job: Job,
        serving: Serving,
        store: CheckpointStore,
        recorder: Recorder,
        identity: Mapping[str, Any],
        *,
        best: Best | None = None,
        elsewhere: Elsewhere | None = None,
        record: Record | None = None,
        replay: Replay | None = None,
        signalled: Callable[[], str | None] = lambda: None,
        gone: Callable[[], Sequence[tuple[int, str]]] = list,
    ) -> None:
        self.job = job
        self.serving = serving
        self.recorder = recorder
        self.finished = False
        self._record = record
        self._signalled = signalled
        self._gone = gone
        self._applies: dict[int, Apply] = {}
        best, progress, profile = best or Best(), serving.progress, serving.profile
        if job.config.run.profile and isinstance(profile, Profile):
            recorder.profiles[serving.endpoint.rank] = profile
        self.noting = Noting(job, recorder)
        self.keeping = Keeping(job, serving, store, identity, best, recorder.console.say, record)
        self.copying = Copying(elsewhere, recorder)
        known = job, serving, self.keeping, recorder, best
        self.evaluating = Evaluating(*known, tell=self._tell, closed=self._evaluation_closed)
        self.answering = Answering(
            serving.receiving.hosting,
            serving,
            self.evaluating,
            lambda answer: self._decide(answer, m.SendShard(answer.rank, answer.workers)),
        )
        choosing = None
        if job.mode.chooses and replay is None:
            choosing = Choosing(Chooser(job.config.run.local_steps or 1), profile)
        self.deciding = Deciding(
            make_policy(job, progress.version, progress.clocks, progress.batches.pairs()),
            self,
            serving,
            self.evaluating,
            self.answering,
            recorder,
            record=record,
            replay=replay,
            choosing=choosing,
        )
        helpers = self.evaluating, self.answering, self.deciding, recorder
        self.membership = Membership(job, serving, *helpers, self._tell, self._decide)
        self.leaving = Leaving(job, self.membership, self.deciding, recorder.console)
        save, copied = self.keeping.save_now, self.copying.finish
        self.ending = Ending(self.keeping.settle, self._write_summary, save, copied)
        serving.owner = self

    def run(self) -> None:
        """Lead the run to its end.

        Raises:
            BaseException: it ended early; what could be kept is, and a note says where.
        """
        try:
            progress = self.serving.progress
            if progress.evaluation_due and self.evaluating.best.evaluated != progress.version:
                self._evaluate_now()
            while not self.finished:
                self._turn()
            self.serving.writer.close(WRITE_S)
            self.copying.close()
        except BaseException as error:
            self.ending.end(error)

    def fail(self, error: BaseException, status: int) -> None:
        """What could be kept is, since :meth:`run` has raised."""

    def _turn(self) -> None:
        self.serving.turn()
        if (by := self._signalled()) is not None:
            raise asked_to_end(by)
        self._heed_the_launcher()
        self.leaving.heed()
        self.keeping.look()
        if self.deciding.replays and self.serving.idle:
            self.deciding.follow()
        self.copying.note()
        over = self.evaluating.last is not None and self.membership.over
        saved = self.serving.snapshots.idle() and self.keeping.idle()
        if over and saved and self.copying.over():
            self._finish()

    def _heed_the_launcher(self) -> None:
        for rank, why in self._gone():
            self._lost(rank, why)

    # Messages

    def on_message(self, peer: int, message: m.Message) -> None:
        match message:
            case m.Push():
                self.recorder.totals(peer, message.totals)
                self.noting.check(peer, message.work, self.serving.progress)
                self.membership.pushed(peer, message)
            case m.HasLanded(worker, rank):
                self.membership.landed(peer, worker, rank)
            case m.AskWeights(workers):
                self.membership.asked(peer, workers)
            case m.Evaluated():
                self.evaluating.report(message)
            case m.Progress():
                self.noting.told(peer, message)
            case m.State():
                pass  # it has landed, and counts when all workers are there
            case m.Spent():
                self.recorder.spent(peer, message)
            case m.ShardSaved():
                self.recorder.server_cpu_s[peer] = message.cpu_s
                self.keeping.saved(message)
            case m.ShardRefused(version, why):
                self.keeping.refuse(peer, version, why)
            case m.WorkerSaved() | m.WorkerUnsaved():
                self.keeping.answered(peer, message)
            case m.Signalled(number):
                self.leaving.asked(peer, number)
            case m.Failed(status):
                raise failed(peer, status)
            case m.Done(totals):
                self.recorder.totals(peer, totals)
                self.keeping.gone(peer)
                self.membership.done(peer)
            case _:
                self.serving.take(peer, message)

    def on_lost(self, peer: int, why: str) -> None:
        self._heed_the_launcher()  # which knows more of it
        self._lost(peer, why)

    def _lost(self, peer: int, why: str) -> None:
        self.keeping.gone(peer)
        self.membership.lost(peer, why)

    def on_written(self, result: Any) -> None:
        self.keeping.written(result)
        self.copying.saved()

    # What is decided

    def depart(self, worker: int) -> None:
        self.membership.depart(worker)

    def send_home(self, worker: int) -> None:
        self.membership.send_home(worker)

    def move(self, worker: int, rank: int) -> None:
        self.membership.move(worker, rank)

    def enact(self, effect: Effect, *, noted: bool) -> None:
        match effect:
            case Apply(slots, weights, _, _, version, rate):
                self._applies[version] = effect
                if self._record is not None:
                    self._record.decided(version)
                update = o.Update(version, slots, weights, rate)
                for part in _parts(update):
                    self._tell(part)
                self._decide(update, m.ApplyMean(version, rate))
            case Drop(worker, slot):
                if noted:
                    self.recorder.dropped(worker)
                self._decide(o.Discard(slot), o.Discard(slot))
            case SendWeights():
                self.answering.go_on(effect)
            case Drained():
                self._decide(effect)

    def _decide(self, decision: Any, told: m.Message | None = None) -> None:
        """Have this shard do something after what was decided before, and all others the same."""
        if told is not None:
            self._tell(told)
        self.serving.happened(o.Decided(decision))

    def _tell(self, message: m.Message) -> list[Sending]:
        return [self.serving.endpoint.send(rank, message) for rank in self.job.holding[1:]]

    # What is done, in its turn

    def perform(self, decision: Any) -> None:
        match decision:
            case AnswerRank():
                for worker in self.answering.send(decision):
                    self.deciding.answered(worker)
            case m.TakeSnapshot():
                self.serving.keep(hold=True, save=False)
            case Drained(version):
                self._drain(version)

    def updated(self, update: o.Update, norm: float) -> None:
        progress = self.serving.progress
        works = works_of(self.job, update.slots, self.serving.receiving.pushes)
        self.noting.updated(self._applies.pop(update.version), works, norm, progress)
        if self._record is not None:
            held = (copy.version for copy in self.serving.snapshots.held())
            self._record.forget(min(held, default=progress.version))
        if progress.evaluation_due and self.answering.live:
            self.evaluating.open(progress.version, self.answering.live)

    def _drain(self, version: int) -> None:
        """Every gradient is applied: evaluate and save the last version, then let all go."""
        self.evaluating.last = version
        if self.answering.live and not self.evaluating.is_open(version):
            self._evaluate_now()
        self.deciding.release()
        self.answering.dismiss_all()

    # Evaluations

    def _evaluate_now(self) -> None:
        """Evaluate the present version, where the other servers do not know that it is due."""
        self._decide(m.TakeSnapshot(), m.TakeSnapshot())
        self.evaluating.open(self.serving.progress.version, self.answering.live)

    def _evaluation_closed(self, version: int) -> None:
        patience = self.job.config.run.early_stop_patience
        if version == self.evaluating.last:
            self.recorder.stop_clock()
            self.answering.dismiss_all()
        elif patience and self.evaluating.best.evaluations_since >= patience:
            self.deciding.stop_early()

    # The end

    def _finish(self) -> None:
        endpoint = self.serving.endpoint
        released = [endpoint.send(rank, m.Finish()) for rank in self.membership.spares]
        endpoint.flush([*released, *self._tell(m.Finish())])
        self._write_summary(self.deciding.stopped_by)
        self.finished = True

    def _write_summary(self, reason: StoppedBy) -> None:
        self.recorder.events = None if self._record is None else self._record.seal
        gaps, best = self.deciding.policy.clock_gaps, self.evaluating.best
        self.noting.close(reason, self.serving, gaps, best.loss)


def _parts(update: o.Update) -> Iterator[m.Include]:
    """Yield what a mean is of, as much at once as a message holds."""
    for start in range(0, len(update.slots), MOST_INCLUDED):
        part = slice(start, start + MOST_INCLUDED)
        yield m.Include(update.slots[part], update.weights[part])
