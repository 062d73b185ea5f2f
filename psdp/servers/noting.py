"""Taking updates down in the records: those of this server, or the steps that workers tell of."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Mapping

from psdp.errors import NumericsError
from psdp.job import Job
from psdp.optim.schedule import Schedule
from psdp.protocol import Apply, Work
from psdp.records.reasons import StoppedBy
from psdp.records.recorder import Recorder
from psdp.servers.ending import Stopped
from psdp.servers.progress import Progress
from psdp.servers.serving import Serving
from psdp.transport import messages as m

CURE = "Try a lower --lr, a longer --warmup-steps, or --grad-clip 1"
"""What may help against gradients with NaN or Inf."""


class Noting:
    """Takes down each update as it is made."""

    def __init__(self, job: Job, recorder: Recorder) -> None:
        self._job = job
        self._recorder = recorder
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
        self, apply: Apply, works: Mapping[int, Work], norm: float, progress: Progress
    ) -> None:
        """Note an update with a mean of this norm; where workers make updates by themselves they
        have told of it already."""
        if not self._job.mode.served:
            return
        losses = (work.loss for work in works.values())
        loss = sum(w * x for w, x in zip(apply.weights, losses, strict=True))
        lr = self._schedule.lr(progress.units_before / self._job.units_per_step)
        self._recorder.updated(apply, loss, norm, lr, progress.units, progress.clocks)

    def told(self, peer: int, message: m.Progress) -> None:
        """Take what a worker tells of steps that all of them make; note these when all have.

        Raises:
            Stopped: the sum of the gradients is not finite.
        """
        self._recorder.totals(peer, message.totals)
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
            self._note_steps(done, message.steps, math.sqrt(message.sum_of_squares), loss)

    def _note_steps(self, done: int, steps: int, norm: float, loss: float) -> None:
        """Note ``steps`` more steps of all workers, which end with number ``done``."""
        count = len(self._job.workers)
        units = steps * self._job.units_per_step
        lags = (0,) * (steps * count)
        taken = Apply(tuple(range(count)), (1 / count,) * count, units, lags, done)
        self._recorder.updated(
            taken,
            loss,
            norm,
            self._schedule.lr(done - 1),
            done * self._job.units_per_step,
            dict.fromkeys(self._job.workers, done),
        )

    def close(
        self, reason: StoppedBy, serving: Serving, clock_gaps: Counter[int], best_loss: float
    ) -> None:
        """Write the summary of a run that is over, for this reason."""
        recorder = self._recorder
        if reason not in (StoppedBy.BUDGET, StoppedBy.EARLY_STOP):
            recorder.weights_sha256 = None  # that of an earlier evaluation
            recorder.stop_clock()
            if self._job.mode.served:
                # An error may have kept the last update from being noted.
                recorder.reached(serving.progress.version, serving.progress.units)
        recorder.server_cpu_s[serving.endpoint.rank] = serving.cpu_s
        recorder.apply_s = serving.profile.seconds
        recorder.finish(reason, clock_gaps, best_loss)
