"""Taking updates down in the records: those of this server, or the steps that workers tell of."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Mapping

from psdp.cast import Cast
from psdp.errors import NumericsError
from psdp.job import Job
from psdp.optim.schedule import Schedule
from psdp.protocol import Apply, Work, some_of
from psdp.protocol.order import Update
from psdp.records.reasons import StoppedBy
from psdp.records.record import Record
from psdp.records.recorder import Recorder
from psdp.servers.ending import Stopped
from psdp.servers.progress import Progress
from psdp.servers.serving import Serving
from psdp.transport import messages as m

CURE = "Try a lower --lr, a longer --warmup-steps, or --grad-clip 1"
"""What may help against gradients with NaN or Inf."""


When = Callable[[Callable[[], object]], None]
"""Does something when it may be told."""


def _at_once(act: Callable[[], object]) -> None:
    act()


class Noting:
    """Takes down each update as it is made.

    Args:
        when: an update may be told.
        record: of the events.
    """

    def __init__(
        self,
        job: Job,
        recorder: Recorder,
        when: When = _at_once,
        record: Record | None = None,
    ) -> None:
        self._job = job
        self.recorder = recorder
        self._when = when
        self._record = record
        # The servers' own, unless workers train alone.
        self._schedule = Schedule(job.config.optim, job.config.run.max_steps)
        self._told: defaultdict[int, dict[int, m.Progress]] = defaultdict(dict)

    def check(self, rank: int, work: Work, progress: Progress) -> None:
        """See that what a worker pushed is finite.

        Raises:
            Stopped: it is not.
        """
        if not math.isfinite(work.sum_of_squares):
            step = self._job.step_of(progress.units)
            error = NumericsError(
                f"rank {rank} sent a gradient with NaN or Inf at step {step + 1} (its gradient "
                f"number {work.clock}, computed on version {work.version}, loss {work.loss:.4g}). "
                f"{CURE}"
            )
            raise Stopped(StoppedBy.NON_FINITE, error)

    def updated(
        self, update: Update, works: Mapping[int, Work], norm: float, progress: Progress
    ) -> None:
        """Note an update with a mean of this norm; where workers make updates by themselves they
        have told of it already."""
        if not self._job.mode.served:
            return
        version, weights = update.version, update.weights
        lags = tuple(version - 1 - work.version for work in works.values())
        units = progress.units - progress.units_before
        counted = some_of(units, sum(work.weight for work in works.values()))
        apply = Apply(update.slots, weights, units, lags, version, update.rate, counted)
        loss = sum(w * work.loss for w, work in zip(weights, works.values(), strict=True))
        lr = self._schedule.lr(progress.units_before / self._job.units_per_step)
        now = progress.units, dict(progress.clocks)
        times = {worker: (work.step_s, work.own_s) for worker, work in works.items()}

        def note() -> None:
            self.recorder.step_times.add(times)
            self.recorder.updated(apply, loss, norm, lr, *now)

        self._when(note)

    @property
    def failures(self) -> int:
        """How many ranks have failed that had work."""
        return self.recorder.counts["failures"] - self.recorder.counts["spares_failed"]

    def failed(self, rank: int, why: str, *, spare: bool) -> None:
        """Note that a rank is gone that was to stay; ``spare``: it had no work yet."""
        self.recorder.counts["failures"] += 1
        self.recorder.counts["spares_failed"] += spare
        said = f"{'spare ' * spare}rank {rank} is gone: {why}"
        self.recorder.happened("failure", {"rank": rank, "why": why, "spare": spare}, said)

    def moved(self, worker: int, before: int, rank: int) -> None:
        """Note that another rank computes for a worker, which has lost what it had for itself."""
        if self._record is not None:
            self._record.moved(worker, rank)
        afresh = self._job.mode.own_optimizer
        said = f"rank {rank} computes for worker {worker} from now on, in place of rank {before}"
        what = {"worker": worker, "from": before, "to": rank, "afresh": afresh}
        if afresh:
            said += "; its own optimizer begins afresh"

        def note() -> None:
            self.recorder.counts["moves"] += 1
            self.recorder.happened("move", what, said)

        self._when(note)

    def took_over(self, before: Cast) -> None:
        """Note who is lost that held a shard in the term before, and who serves it in this one; and
        who has joined."""
        job = self._job
        self.recorder.late.clear()  # which the policy of this term does not know of
        joined = job.term.joined[len(before.term.joined) :]
        for shard, rank in joined:
            if rank not in job.term.lost:
                self._stands_by(shard, rank)
        holders = (
            (*ranks, *(rank for at, rank in joined if at == shard))
            for shard, ranks in enumerate(before.holders)
        )
        for shard, ranks in enumerate(holders):
            server = job.servers[shard]
            for rank in (rank for rank in ranks if rank in job.term.lost):
                took_over = ranks[0] == rank
                self.recorder.counts["takeovers"] += took_over
                self.recorder.counts["failures"] += 1
                has = (
                    f"serves shard {shard} from now on" if took_over else f"alone has shard {shard}"
                )
                self.recorder.happened(
                    "takeover" if took_over else "standby",
                    {"shard": shard, "from": rank, "to": server, "term": job.term.number}
                    | {"afresh": job.mode.own_optimizer},
                    f"rank {rank} is gone: rank {server} {has}",
                )

    def begin_term(self, version: int, evaluating: Collection[int]) -> None:
        """Note in the record, unless this is the first term, that it begins at this version, where
        these are to be evaluated."""
        term, modes = self._job.term, self.recorder.changes.modes
        if self._record is not None and (term.number or term.lost):
            self._record.begin_term(term, version, modes, evaluating)

    def _stands_by(self, shard: int, rank: int) -> None:
        job = self._job
        self.recorder.counts["joins"] += 1
        self.recorder.happened(
            "join",
            {"shard": shard, "rank": rank, "term": job.term.number}
            | {"afresh": job.mode.own_optimizer},
            f"rank {rank} stands by for rank {job.servers[shard]} from now on",
        )

    def told(self, peer: int, message: m.Progress) -> None:
        """Take what a worker tells of steps that all of them make; note these when all have.

        Raises:
            Stopped: the sum of the gradients is not finite.
        """
        self.recorder.totals(peer, message.totals)
        done = message.clock + message.steps
        if not math.isfinite(message.sum_of_squares):
            error = NumericsError(
                f"the sum of the workers' gradients holds NaN or Inf at step {done}. {CURE}"
            )
            raise Stopped(StoppedBy.NON_FINITE, error)
        told = self._told[message.clock]
        told[peer] = message
        count = len(self._job.workers)
        if sum(own.workers for own in told.values()) == count:
            del self._told[message.clock]
            loss = sum(told[rank].loss * told[rank].workers for rank in sorted(told)) / count
            self._note_steps(done, message, loss)

    def _note_steps(self, done: int, told: m.Progress, loss: float) -> None:
        """Note more steps of all workers, which end with number ``done``."""
        count = len(self._job.workers)
        units = told.steps * self._job.units_per_step
        lags, shares = (0,) * (told.steps * count), (1 / count,) * count
        taken = Apply(tuple(range(count)), shares, units, lags, done, counted=told.counted)
        self.recorder.updated(
            taken,
            loss,
            math.sqrt(told.sum_of_squares),
            self._schedule.lr(done - 1),
            done * self._job.units_per_step,
            dict.fromkeys(self._job.workers, done),
        )

    def stop_clock(self) -> None:
        """Training and its last evaluation are over, which may be known before who stands by has
        made the last update, and that is noted."""
        self._when(self.recorder.stop_clock)

    def close(
        self, reason: StoppedBy, serving: Serving, clock_gaps: Counter[int], best_loss: float
    ) -> None:
        """Write the summary of a run that is over, for this reason."""
        recorder = self.recorder
        if reason not in (StoppedBy.BUDGET, StoppedBy.EARLY_STOP):
            recorder.weights_sha256 = None  # that of an earlier evaluation
            recorder.stop_clock()
            if self._job.mode.served:
                # An error may have kept the last update from being noted.
                recorder.reached(serving.progress.version, serving.progress.units)
        recorder.server_cpu_s[serving.endpoint.rank] = serving.cpu_s
        recorder.apply_s = serving.profile.seconds
        recorder.finish(reason, clock_gaps, best_loss)
