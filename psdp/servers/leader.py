"""What rank 0 does beyond serving its shard: the budget, evaluations, checkpoints, the records."""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from psdp.checkpoint import CheckpointStore, Snapshot
from psdp.errors import CheckpointError, NumericsError, PeerLost, RankFailed, ReplayError
from psdp.job import Job
from psdp.nn.profile import clock_of
from psdp.optim import Schedule
from psdp.protocol import (
    Adaptive,
    Apply,
    Chooser,
    Drained,
    Drop,
    Effect,
    Evaluations,
    Event,
    Leave,
    Pull,
    Push,
    SendWeights,
    Stop,
    Sums,
    Switch,
)
from psdp.records.metrics import Best
from psdp.records.profile import Profile
from psdp.records.recorder import Recorder
from psdp.records.replay import Happened, Record, Replay, Timing
from psdp.servers.commits import Commits, Committed
from psdp.servers.follower import Instruction
from psdp.servers.server import TICK_S, Saved, Server
from psdp.servers.shard import Shard
from psdp.transport import Arrival, Endpoint, Sending
from psdp.transport import messages as m

LAST_SAVE_S = 5.0
"""How long a run that ends early waits for its last checkpoint."""

CURE = "Try a lower --lr, a longer --warmup-steps, or --grad-clip 1"
"""What may help against gradients with NaN or Inf."""


class Ended(Exception):
    """The run was told to end early; what could be kept is on disk."""


class Leader(Server):
    """The server on rank 0.

    Args:
        identity: what a checkpoint says of the job beside its progress (settings, tokenizer, ...).
        best: of the run that this one resumes.
        record: takes down what happens.
        replay: says what happens next.
        signalled: returns the name of a signal that asked this rank to end, or None.
    """

    def __init__(
        self,
        job: Job,
        endpoint: Endpoint,
        shard: Shard,
        store: CheckpointStore,
        recorder: Recorder,
        identity: dict[str, Any],
        snapshot: Snapshot | None = None,
        *,
        best: Best | None = None,
        record: Record | None = None,
        replay: Replay | None = None,
        signalled: Callable[[], str | None] = lambda: None,
    ) -> None:
        super().__init__(job, endpoint, shard, store, snapshot)
        self.profile = Profile(clock_of(shard.backend))
        if job.config.run.profile:
            recorder.profiles[endpoint.rank] = self.profile
        self.policy = job.policy(self.version, self.clocks, self.batches.pairs())
        self.recorder = recorder
        self.best = best or Best()
        self._identity = identity
        self._signalled = signalled
        self._record = record
        self._replay = replay
        self._chooser: Chooser | None = None
        if job.config.run.mode == "auto" and replay is None:
            self._chooser = Chooser(job.config.run.local_steps or 1)
        self._departed: set[int] = set()
        self._commits = Commits(len(job.servers), store, self.writer, self._steps_held)
        self._evaluations = Evaluations()
        # Of each worker: what it reported, which counts with the pull that follows.
        self._reported: dict[int, m.Evaluated] = {}
        # The servers' own, unless workers train alone.
        self.training_schedule = Schedule(job.config.optim, job.config.run.max_steps)
        self._effects: deque[Effect] = deque()
        self._applying: Apply | None = None
        self._live = set(job.workers)
        self._unanswered: set[int] = set()
        self._last: int | None = None
        self._stopped_by = "budget"

    def run(self) -> None:
        if self.evaluation_due() and self.best.evaluated != self.version:
            self._evaluate_now()
        try:
            super().run()
        except CheckpointError:
            # The disk refuses a checkpoint; it may still take the summary.
            self._close_records("error")
            raise

    def turn(self) -> None:
        super().turn()
        signal = self._signalled()
        if signal is not None:
            self._end_by_signal(signal)
        if self._replay is not None and self._stands_still():
            self._follow(self._replay)
            if self._replay.over and self._stands_still():
                kept = self.end_early("end of record")
                raise Ended(f"{self._replay.path} ends before its run did; {kept}")
        if self._last is not None and not self._live | self._departed and self._at_rest():
            self._finish()

    @property
    def apply_s(self) -> float:
        """Seconds in which this rank averaged gradients and updated its weights."""
        return sum(cost.seconds for cost in self.profile.costs.values())

    # Messages

    def on_message(self, peer: int, message: m.Message) -> None:
        match message:
            case m.PullRequest(m.CURRENT):
                self._unanswered.add(peer)
                self._happened(peer, Happened(Pull(peer)))
                self._dismiss(peer)
            case m.Evaluated():
                self._reported[peer] = message
            case m.Spent():
                self.recorder.spent(peer, message)
            case m.ShardSaved(version, name, file_bytes, sha256, cpu_s):
                self.recorder.server_cpu_s[peer] = cpu_s
                file = {"name": name, "bytes": file_bytes, "sha256": sha256}
                self._commits.collect(version, file)
            case m.Goodbye(why=m.SIGNAL):
                self._end_by_signal(f"a signal to rank {peer}")
            case m.Goodbye(why=m.ERROR, status=status):
                kept = self.end_early("error")
                raise RankFailed(f"rank {peer} failed (see its own message); {kept}", status)
            case m.Goodbye():
                self.recorder.totals(peer, message)
                self._departed.discard(peer)
                if peer in self._live:
                    self._leave(peer)
            case _:
                super().on_message(peer, message)

    def on_gradient(self, peer: int, message: m.Gradient) -> None:
        self._unanswered.add(peer)
        self.recorder.totals(peer, message)
        if not math.isfinite(message.sum_of_squares):
            self._refuse(peer, message)
        slot = self.slot_of(peer)
        self.gradients[slot] = message
        clock, version, tokens = message.clock, message.version, message.tokens
        steps, step_s, batch = message.steps, message.step_s, message.batch
        push = Push(peer, clock, version, slot, tokens, steps, step_s, batch)
        timing = Timing(message.busy_s, message.cpu_s)
        self._happened(peer, Happened(push, message.loss, message.sum_of_squares, timing))
        self._dismiss(peer)

    def _refuse(self, peer: int, message: m.Gradient) -> None:
        step = self.job.step_of(self.tokens)
        kept = self.end_early("non-finite gradient")
        raise NumericsError(
            f"rank {peer} sent a gradient with NaN or Inf at step {step + 1} (its gradient number "
            f"{message.clock}, computed on version {message.version}, loss {message.loss:.4g}); "
            f"{kept}. {CURE}"
        )

    def on_lost(self, peer: int, why: str) -> None:
        super().on_lost(peer, why)
        self.recorder.console.say(f"rank {peer} is gone: {why}")
        if len(self.job.servers) > 1:
            # A gradient that counts here may never have reached the other servers.
            kept = self.end_early("worker lost")
            raise PeerLost(f"rank {peer} is gone ({why}), and --servers above 1 needs all; {kept}")
        if self._replay is not None and not self.policy.drained:
            kept = self.end_early("worker lost")
            raise ReplayError(f"rank {peer} is gone ({why}), which it was not then; {kept}")
        self._leave(peer)
        over = self._last is not None and not self._evaluations.is_open(self._last)
        if not self._live and not over:
            kept = self.end_early("workers lost")
            raise PeerLost(f"the last worker, rank {peer}, is gone ({why}); {kept}")

    def _leave(self, peer: int) -> None:
        """A worker computes no more: others do its part of evaluations."""
        self._reported.pop(peer, None)
        self._evaluations.leave(peer, self._live - {peer})
        self._unanswered.discard(peer)
        self._live.discard(peer)
        if self._chooser is not None:
            self._chooser.left(peer)
        self._decide_on(Happened(Leave(peer)))
        self._dismiss_all()

    def on_written(self, result: Saved | Committed | None) -> None:
        match result:
            case Saved(version, file):
                self._commits.collect(version, file)
                self.snapshots.written(version)
            case Committed():
                self._commits.committed(result)

    # The order of events

    def _happened(self, rank: int, happened: Happened) -> None:
        """Let the policy decide on what a worker did, now or when a replay comes to it."""
        if rank in self._departed:
            self.gradients.pop(self.slot_of(rank), None)
            self._answer(rank, m.Weights(self.version, 0, m.STOP, m.CURRENT, 0, 0))
        elif self._replay is None or self.policy.drained:
            self._decide_on(happened)
        else:
            self._replay.hold(rank, happened)
            self._follow(self._replay)

    def _follow(self, replay: Replay) -> None:
        """Do what is next in the record, as far as it has happened."""
        while (happened := replay.next(self._stuck())) is not None:
            match happened.event:
                case Leave(rank):
                    self._depart(rank, replay)
                case Stop():
                    self._stop_early()
                case _:
                    self._decide_on(happened)
        if self.policy.drained:
            for happened in replay.release():
                self._decide_on(happened)

    def _depart(self, rank: int, replay: Replay) -> None:
        """A worker was lost here in the record; its twin is sent home when it next asks."""
        replay.discard(rank)
        waits = rank in self._unanswered
        self._departed.add(rank)
        self._leave(rank)
        if waits:
            self._happened(rank, Happened(Pull(rank)))

    def _decide_on(self, happened: Happened) -> None:
        match happened.event:
            case Pull(rank) if rank in self._reported:
                # Not sooner: who evaluates what a lost worker owed depends on it, also in a replay.
                self._on_evaluated(rank, self._reported.pop(rank))
        if self._record is not None and not self.policy.drained:
            self._record.note(happened)
        chooser = self._chooser
        match happened.event:
            case Push(rank, steps=steps, step_s=step_s) if chooser is not None:
                chooser.pushed(rank, time.monotonic(), steps, step_s, happened.loss)
                self.decide(happened.event)
                self._choose(chooser)
            case Switch(mode):
                self.recorder.switched(mode, happened.reason)
                self.decide(happened.event)
            case event:
                self.decide(event)

    def _choose(self, chooser: Chooser) -> None:
        """Change the mode where another one is clearly better."""
        assert isinstance(self.policy, Adaptive)
        if not self.policy.drained:
            apply_s = self.apply_s / max(1, self.profile.steps)
            choice = chooser.choose(self.policy.mode, len(self._live), apply_s)
            if choice is not None:
                self._decide_on(Happened(Switch(choice.mode), reason=choice.reason))

    def _stuck(self) -> set[int]:
        """Return the workers that wait for an answer, unless one may be on its way to them."""
        return self._unanswered if self._stands_still() else set()

    def _stands_still(self) -> bool:
        """Say whether all that was decided is done, before the run is over."""
        return not self.policy.drained and not self._effects and self.updating is None

    # Acting

    def decide(self, event: Event) -> None:
        """Ask the policy; perform what it says, in order."""
        self._effects.extend(self.policy.handle(event))
        self.proceed()

    def proceed(self) -> None:
        while self._effects and self.updating is None:
            match self._effects.popleft():
                case Apply(slots, _, _, _, version, rate, outer) as apply:
                    self._applying = apply
                    update = m.Update(version, m.pack_slots(slots), rate, outer)
                    self._tell(update)
                    self.begin_update(update)
                case Drop(rank, slot):
                    del self.gradients[slot]
                    self._tell(m.Discard(slot))
                    self.recorder.dropped(rank)
                case SendWeights(rank, version, clock, steps, batch, alone):
                    do = m.ALONE if alone else m.TRAIN
                    order = m.Weights(
                        version, clock, do, m.CURRENT, 0, 0, steps, self.tokens, batch
                    )
                    self._answer(rank, order)
                case Drained(version):
                    self._drain(version)

    def _tell(self, instruction: Instruction) -> list[Sending]:
        """Have all other servers do what this one does now."""
        return [self.endpoint.send(server, instruction) for server in self.job.servers[1:]]

    # Answers

    def _answer(self, rank: int, order: m.Weights) -> None:
        """Send a worker all shards, with this order unless it owes an evaluation."""
        self._unanswered.discard(rank)
        task = self._evaluations.next_for(rank)
        if task is not None:
            owed = {"snapshot": task.version, "part": task.part, "parts": task.parts}
            order = replace(order, order=m.EVALUATE, **owed)
        elif self._chooser is not None:
            self._chooser.answered(rank, time.monotonic())
        self._tell(m.Answer(rank))
        self.send_weights(rank, order)

    def _drain(self, version: int) -> None:
        """Every gradient is applied: evaluate and save the last version, then let all go."""
        self._last = version
        if self._live and not self._evaluations.is_open(version):
            self._evaluate_now()
        self._dismiss_all()

    def _dismiss_all(self) -> None:
        for rank in sorted(self._unanswered):
            self._dismiss(rank)

    def _dismiss(self, rank: int) -> None:
        """After the last update: hand a waiting worker its evaluation, or let it go."""
        if self._last is None or rank not in self._unanswered:
            return
        owes = self._evaluations.next_for(rank) is not None
        if owes or not self._evaluations.is_open(self._last):
            self._answer(rank, m.Weights(self.version, 0, m.STOP, m.CURRENT, 0, 0))

    # Evaluations

    def after_update(self, norm: float) -> None:
        super().after_update(norm)
        self.note_update(norm)
        if self.evaluation_due() and self._live:
            self._evaluations.open(self.version, self._live)

    def note_update(self, norm: float) -> None:
        """Let the records know of an update with a gradient of this norm."""
        apply = self._applying
        assert apply is not None
        losses = [self.gradients[slot].loss for slot in apply.slots]
        loss = sum(w * x for w, x in zip(apply.weights, losses, strict=True))
        lr = self.training_schedule.lr(self.tokens_before / self.job.tokens_per_step)
        self.recorder.updated(apply, loss, norm, lr, self.tokens, self.clocks)

    def _evaluate_now(self) -> None:
        """Evaluate the present version, where the other servers do not know that it is due."""
        self._tell(m.TakeSnapshot())
        self.keep(hold=True, save=False)
        self._evaluations.open(self.version, self._live)

    def _on_evaluated(self, peer: int, message: m.Evaluated) -> None:
        if message.weights_sha256:
            self.recorder.weights_sha256 = message.weights_sha256
        sums = Sums(message.loss_sum, message.correct, message.tokens)
        total = self._evaluations.report(peer, message.snapshot, message.part, sums)
        if total is not None:
            self._close_evaluation(message.snapshot, total)

    def _close_evaluation(self, version: int, total: Sums) -> None:
        snapshot = self.snapshots.get(version)
        assert snapshot is not None, "a snapshot is held until its evaluation is over"
        best, last = False, version == self._last
        if total.tokens:
            best = self.best.better(total.loss / total.tokens, version)
            self.recorder.evaluated(total, version, snapshot.tokens, best=best)
        if best:
            self._commits.mark_best(version, self.job.step_of(snapshot.tokens))
        self._tell(m.ReleaseSnapshot(version, best or last))
        self.snapshots.release(version, save=best or last)
        patience = self.job.config.run.early_stop_patience
        if last:
            self.recorder.stop_clock()
            self._dismiss_all()
        elif patience and self.best.evaluations_since >= patience and self._replay is None:
            self._stop_early()

    def _stop_early(self) -> None:
        self._stopped_by = "early_stop"
        self._decide_on(Happened(Stop()))

    # Checkpoints and the end

    def write(self, snapshot: Snapshot) -> None:
        state = {
            "version": snapshot.version,
            "tokens": snapshot.tokens,
            "clocks": {str(rank): clock for rank, clock in snapshot.clocks.items()},
            "best": self.best.record(),
        }
        step = self.job.step_of(snapshot.tokens)
        self._commits.begin(snapshot.version, step, self._identity | state)
        super().write(snapshot)

    def _steps_held(self) -> list[int]:
        return [self.job.step_of(snapshot.tokens) for snapshot in self.snapshots.held()]

    def _at_rest(self) -> bool:
        return self.snapshots.idle() and self._commits.idle()

    def _finish(self) -> None:
        self.endpoint.flush(self._tell(m.Finish()))
        self._write_summary(self._stopped_by)
        self.finished = True

    def _close_records(self, stopped_by: str) -> None:
        """Write the summary of a run that ends before its last evaluation."""
        self.recorder.weights_sha256 = None  # that of an earlier evaluation
        self.recorder.stop_clock()
        self._write_summary(stopped_by)

    def _write_summary(self, stopped_by: str) -> None:
        self.recorder.server_cpu_s[self.endpoint.rank] = self.cpu_s
        self.recorder.apply_s = self.apply_s
        self.recorder.finish(stopped_by, self.policy.clock_gaps, self.best.loss)

    def _end_by_signal(self, name: str) -> None:
        kept = self.end_early("signal")
        raise Ended(f"stopped by {name}; {kept}")

    def end_early(self, stopped_by: str) -> str:
        """Write the summary, then save what there is; return a sentence that says where."""
        self._close_records(stopped_by)
        try:
            path = self._save_now(time.monotonic() + LAST_SAVE_S)
        except CheckpointError as error:
            return f"the weights so far could not be saved: {error}"
        if path is None:
            return f"no checkpoint could be written within {LAST_SAVE_S:g} s"
        return f"the weights so far are in {path}"

    def _save_now(self, deadline: float) -> Path | None:
        """Save the present version on all servers; return where, None if it takes too long."""
        while self.updating is not None and time.monotonic() < deadline:
            self._settle()
        version = self.version
        self._tell(m.TakeSnapshot())
        self._tell(m.ReleaseSnapshot(version, save=True))
        self.keep(hold=False, save=True)
        while version not in self._commits.paths and time.monotonic() < deadline:
            self._settle()
        return self._commits.paths.get(version)

    def _settle(self) -> None:
        """Move on only what servers owe one another."""
        event = self.endpoint.receive(TICK_S / 10)
        if isinstance(event, Arrival) and event.peer in self.job.servers:
            self.on_message(event.peer, event.message)
        for result in self.writer.poll():
            self.on_written(result)
