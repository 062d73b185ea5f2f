"""The rank that leads: it serves its shard as every server does, and has its helpers decide,
evaluate, keep, record and end for all."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import Any, NoReturn

from psdp.checkpoint import CheckpointStore
from psdp.job import Job
from psdp.policies import make_policy
from psdp.protocol import Apply, Drained, Drop, Effect, SendWeights
from psdp.protocol import order as o
from psdp.records.metrics import Best
from psdp.records.profile import UPDATE, Cost, Spans
from psdp.records.reasons import StoppedBy
from psdp.records.record import Record
from psdp.records.recorder import Recorder
from psdp.records.replay import Script
from psdp.servers.answering import Answering, AnswerRank
from psdp.servers.changing import TermEnds, bearing
from psdp.servers.choosing import Choosing
from psdp.servers.copies import Copies
from psdp.servers.copying import Copying
from psdp.servers.course import Course
from psdp.servers.deciding import Deciding
from psdp.servers.ending import Ending, asked_to_end, failed
from psdp.servers.evaluating import Evaluating
from psdp.servers.keeping import Keeping
from psdp.servers.leaving import Leaving
from psdp.servers.means import works_of
from psdp.servers.membership import Earlier, Membership
from psdp.servers.noting import Noting
from psdp.servers.recruiting import Recruiting
from psdp.servers.relief import Relief
from psdp.servers.serving import WRITE_S, Serving
from psdp.servers.telling import Telling
from psdp.transport import messages as m

NOTHING = Earlier()
"""What is before the first term."""

GOODBYE_S = 1.0
"""How long the word may take that the run is over; some may have heard it from another rank."""


class Leader:
    """Leads a run, from rank 0 unless that is lost.

    Args:
        identity: what a checkpoint says of the job beside its progress (settings, tokenizer, ...).
        best: of the run that this one resumes.
        copying: copies checkpoints elsewhere.
        record: takes down what happens.
        replay: says what happens next.
        signalled: returns the name of a signal that asked this rank to end, or None.
        gone: returns the ranks that are no more, as the launcher tells, and why it does.
        earlier: what terms before this one have left.
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
        copying: Copying | None = None,
        record: Record | None = None,
        replay: Script | None = None,
        signalled: Callable[[], str | None] = lambda: None,
        gone: Callable[[], Collection[tuple[int, str]]] = list,
        earlier: Earlier = NOTHING,
    ) -> None:
        self.job, self.serving, self.recorder = job, serving, recorder
        self.finished, self.over = False, earlier.over
        self.record, self.replay = record, replay
        self._signalled, self.gone = signalled, gone
        best, progress, profile = best or Best(), serving.progress, serving.profile
        self.telling = Telling(job, serving, record)
        self.noting = Noting(job, recorder, serving.giving.gate.hold, record)
        self.copies = Copies(job, serving, store, self.telling.decide)
        kept = identity, best, self.copies, recorder.console.say, record
        self.keeping = Keeping(job, serving, store, *kept)
        self.copying = copying or Copying(None, recorder)
        self.evaluating = Evaluating(
            *(job, serving, self.copies, recorder, best),
            closed=lambda version: self.course.evaluated(version),
        )
        self.answering = Answering(
            serving.receiving.hosting,
            serving,
            self.evaluating,
            lambda answer: self.telling.decide(answer, m.SendShard(answer.rank, answer.workers)),
        )
        self.deciding = Deciding(
            make_policy(job, progress.version, progress.clocks, progress.batches.pairs()),
            self,
            serving,
            self.evaluating,
            self.answering,
            recorder,
            record=record,
            replay=replay,
            choosing=_choosing(job, profile) if replay is None else None,
        )
        helpers, telling = (self.evaluating, self.answering, self.deciding), self.telling
        tells = telling.tell, telling.decide, earlier
        self.membership = Membership(job, serving, *helpers, self.noting, *tells)
        self.left, self.told = self.membership.left, self.membership.told
        own = self.membership, self.copies
        self.course: Course = Course(job, serving, *helpers, *own, self.noting, telling, earlier)
        self.recruiting = Recruiting(job, serving, self.membership, *helpers, self.keeping)
        self.leaving = Leaving(job, serving, self.membership, self.deciding, recorder.console)
        save, copied = self.keeping.save_now, self.copying.finish
        self.ending = Ending(self.keeping.settle, self._write_summary, save, copied)
        self.relief = Relief(job, serving)
        serving.owner = self

    def run(self) -> None:
        """Lead the run to its end.

        Raises:
            TermEnds: others hold the shards from now on.
            BaseException: it ended early; what could be kept is, and a note says where. Or another
                rank is to go on with it.
        """
        try:
            self.noting.begin_term(self.serving.progress.version, self.course.evaluating)
            for rank in self.left | self.serving.endpoint.lost:  # in an earlier term
                self.keeping.gone(rank)
            if self.over:
                self._finish()
            else:
                self.course.begin()
            while not self.finished:
                self._turn()
            self.serving.giving.writer.close(WRITE_S)
            self.copying.close()
        except TermEnds:
            raise
        except BaseException as error:
            if self.relief.found(error):
                raise
            self.ending.end(error)

    def give_up(self, error: BaseException) -> NoReturn:
        """End the run: raise an error, or what it stands for."""
        self.ending.end(error)

    def fail(self, error: BaseException, status: int) -> None:
        """What could be kept is, since :meth:`run` has raised."""

    def _turn(self) -> None:
        self.serving.turn()
        if (by := self._signalled()) is not None:
            raise asked_to_end(by, begun=self.recorder.begun)
        self._heed_losses({})
        self.leaving.heed()
        self.recruiting.look()
        self.keeping.look()
        if self.deciding.replays and self.serving.idle:
            self.deciding.follow()
        if self.deciding.term_ends:
            raise TermEnds(self.job.leader)
        self.copying.note()
        over = self.evaluating.last is not None and self.membership.over
        saved = self.serving.giving.snapshots.idle() and self.keeping.idle()
        if over and saved and self.copying.over() and not self.over:
            self.over = True
            self.telling.decide(m.Over(), m.Over() if self.job.stands_by else None)

    # Messages

    def on_message(self, peer: int, message: m.Message) -> None:
        self.recruiting.relieve()
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
            case m.Sampled():
                self.evaluating.sampled(message)
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
            case m.Prepared(computes):
                self.recruiting.ready(peer, computes=computes)
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
        self._heed_losses({peer: why})

    def _heed_losses(self, seen: dict[int, str]) -> None:
        for rank, told in (seen | dict(self.gone())).items():  # the launcher knows more
            if rank in self.job.term.lost:
                continue
            if rank in self.job.holding:
                bearing(self.job, [rank], rank, told)
                raise TermEnds(rank)
            self.keeping.gone(rank)
            self.membership.lost(rank, told)

    def on_written(self, result: Any) -> None:
        self.keeping.written(result)
        self.copying.saved()

    # What is decided

    def enact(self, effect: Effect, *, noted: bool) -> None:
        match effect:
            case Apply(slots, weights, _, _, version, rate):
                self.telling.update(o.Update(version, slots, weights, rate))
            case Drop(worker, slot):
                if noted:
                    self.recorder.dropped(worker)
                self.telling.decide(o.Discard(slot), o.Discard(slot))
            case SendWeights():
                self.answering.go_on(effect)
            case Drained():
                self.telling.decide(effect)

    # What is done, in its turn

    def perform(self, decision: Any) -> None:
        match decision:
            case AnswerRank():
                for worker in self.answering.send(decision):
                    self.deciding.answered(worker)
            case m.TakeSnapshot(hold):
                self.serving.giving.keep(hold=hold, save=not hold)
            case m.SaveSnapshot(version):
                self.serving.giving.save(version)
            case m.DropSnapshot(version):
                self.serving.giving.snapshots.release(version)
            case Drained(version):
                self.course.drain(version)
            case m.Over():
                # Who would take over knows by then, and needs no rank that has ended.
                self.serving.giving.gate.answer(self._finish)

    def updated(self, update: o.Update, norm: float) -> None:
        self.note(update, norm)
        self.course.updated()

    def note(self, update: o.Update, norm: float) -> None:
        """Take an update down."""
        works = works_of(self.job, update.slots, self.serving.receiving.pushes)
        self.noting.updated(update, works, norm, self.serving.progress)
        if self.record is not None:
            self.record.forget(self.serving.needed)

    def learn(self, noted: m.Noted) -> None:
        """This rank has written all that there is."""

    def _finish(self) -> None:
        endpoint = self.serving.endpoint
        self._write_summary(self.deciding.stopped_by)
        released = [endpoint.send(rank, m.Finish()) for rank in self.membership.waiting]
        endpoint.flush([*released, *self.telling.tell(m.Finish())], GOODBYE_S)
        self.finished = True

    def _write_summary(self, reason: StoppedBy) -> None:
        self.recorder.events = None if self.record is None else self.record.seal
        gaps, best = self.deciding.policy.clock_gaps, self.evaluating.best
        self.noting.close(reason, self.serving, gaps, best.loss)


def _choosing(job: Job, profile: Spans) -> Choosing | None:
    """Return what chooses the mode of a run that goes over from one to another."""
    if not job.mode.chooses:
        return None

    def costs() -> tuple[float, float]:
        update = profile.costs.get(UPDATE, Cost())
        updates = max(1, update.calls)
        return update.seconds / updates, (profile.seconds - update.seconds) / updates

    return Choosing(job, costs)
