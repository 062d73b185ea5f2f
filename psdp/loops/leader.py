"""What rank 0 does beyond serving its shard: the budget, evaluations, checkpoints, the records."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from psdp.checkpoint import CheckpointStore
from psdp.errors import CheckpointError, NumericsError, PeerLost
from psdp.job import Job
from psdp.loops.commits import Commits, Committed
from psdp.loops.server import TICK_S, Saved, Server
from psdp.metrics import Best
from psdp.protocol import Apply, Evaluations, Pull, Stop, Sums
from psdp.recorder import Recorder
from psdp.shard import Shard, Snapshot
from psdp.transport import Arrival, Endpoint
from psdp.transport import messages as m

LAST_SAVE_S = 5.0
"""How long a run that ends early waits for its last checkpoint."""


class Ended(Exception):
    """The run was told to end early; what could be kept is on disk."""


class Leader(Server):
    """The server on rank 0.

    Args:
        identity: what a checkpoint says of the job beside its progress (settings, tokenizer, ...).
        best: of the run that this one resumes.
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
        *,
        version: int = 0,
        tokens: int = 0,
        clocks: dict[int, int] | None = None,
        behind: Iterable[int] = (),
        best: Best | None = None,
        signalled: Callable[[], str | None] = lambda: None,
    ) -> None:
        super().__init__(
            job,
            endpoint,
            shard,
            store,
            version=version,
            tokens=tokens,
            clocks=clocks,
            behind=behind,
        )
        self.recorder = recorder
        self.best = best or Best()
        self._identity = identity
        self._signalled = signalled
        self._commits = Commits(job, store, self.writer, self.snapshots.held)
        self._evaluations = Evaluations()
        self._unanswered: set[int] = set()
        self._last: int | None = None
        self._stopped_by = "budget"

    def grants(self) -> int | None:
        return max(0, self.job.pushes - sum(self.clocks.values()))

    def run(self) -> None:
        try:
            super().run()
        except CheckpointError:
            # The disk refuses a checkpoint; it may still take the summary.
            self._write_summary("error")
            raise

    def start(self) -> None:
        if self.evaluation_due() and self.best.evaluated != self.version:
            self._evaluate_now()

    def turn(self) -> None:
        super().turn()
        signal = self._signalled()
        if signal is not None:
            self._end_by_signal(signal)
        if self._last is not None and not self._live and self._at_rest():
            self._finish()

    # Messages

    def on_message(self, peer: int, message: m.Message) -> None:
        match message:
            case m.PullRequest(m.CURRENT):
                self._unanswered.add(peer)
                self.decide(Pull(peer))
                self._dismiss(peer)
            case m.Evaluated():
                self._on_evaluated(peer, message)
            case m.ShardSaved(version, name, file_bytes, sha256):
                file = {"name": name, "bytes": file_bytes, "sha256": sha256}
                self._commits.collect(version, file)
            case m.Goodbye():
                self.recorder.totals(peer, message)
                if message.why == m.SIGNAL:
                    self._end_by_signal(f"a signal to rank {peer}")
                if message.why == m.ERROR:
                    kept = self._end_early("error")
                    raise PeerLost(f"rank {peer} failed (see its own message); {kept}")
                super().on_message(peer, message)
            case _:
                super().on_message(peer, message)

    def on_gradient(self, peer: int, message: m.Gradient) -> None:
        self._unanswered.add(peer)
        self.recorder.totals(peer, message)
        super().on_gradient(peer, message)

    def on_bad_gradient(self, peer: int, message: m.Gradient) -> None:
        step = self.job.step_of(self.version)
        kept = self._end_early("non-finite gradient")
        raise NumericsError(
            f"rank {peer} sent a gradient with NaN or Inf at step {step + 1} (its gradient number "
            f"{message.clock}, computed on version {message.version}, loss {message.loss:.4g}); "
            f"{kept}. Try a lower --lr, a longer --warmup-steps, or --grad-clip 1"
        )

    def on_leave(self, peer: int) -> None:
        self._unanswered.discard(peer)
        super().on_leave(peer)

    def on_lost(self, peer: int, why: str) -> None:
        self.recorder.console.say(f"rank {peer} is gone: {why}")
        if peer in self.job.workers and len(self.job.servers) > 1:
            # The other servers do not know which of its gradients rank 0 still counts on.
            kept = self._end_early("worker lost")
            raise PeerLost(f"rank {peer} is gone ({why}), and --servers above 1 needs all; {kept}")
        self._evaluations.leave(peer, self._live - {peer})
        super().on_lost(peer, why)
        self._dismiss_all()
        over = self._last is not None and not self._evaluations.is_open(self._last)
        if not self._live and not over:
            kept = self._end_early("workers lost")
            raise PeerLost(f"the last worker, rank {peer}, is gone ({why}); {kept}")

    def on_written(self, result: Saved | Committed | None) -> None:
        match result:
            case Saved(version, file):
                self._commits.collect(version, file)
                self.snapshots.written(version)
            case Committed():
                self._commits.committed(result)

    # Answers

    def answer(self, rank: int, version: int, clock: int) -> None:
        self._unanswered.discard(rank)
        task = self._evaluations.next_for(rank)
        if task is None:
            super().answer(rank, version, clock)
        else:
            order = m.Weights(version, clock, m.EVALUATE, task.version, task.part, task.parts)
            self.send_weights(rank, order)

    def on_drained(self, version: int) -> None:
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
        if self._evaluations.next_for(rank) is not None:
            self.answer(rank, self.version, 0)
        elif not self._evaluations.is_open(self._last):
            self._unanswered.discard(rank)
            self.send_weights(rank, m.Weights(self.version, 0, m.STOP, m.CURRENT, 0, 0))

    # Evaluations

    def after_update(self, apply: Apply, norm: float, lr: float) -> None:
        super().after_update(apply, norm, lr)
        losses = [self._gradients[slot].loss for slot in apply.slots]
        loss = sum(w * x for w, x in zip(apply.weights, losses, strict=True))
        self.recorder.updated(apply, loss, norm, lr, self.tokens, self.clocks)
        if self.evaluation_due() and self._live:
            self._evaluations.open(self.version, self._live)

    def _evaluate_now(self) -> None:
        """Evaluate the present version, where the other servers do not know that it is due."""
        for server in self.job.servers[1:]:
            self.endpoint.send(server, m.TakeSnapshot(self.version))
        self.snapshots.keep(self.version, hold=True, save=False)
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
            self._commits.mark_best(version)
        for server in self.job.servers[1:]:
            self.endpoint.send(server, m.ReleaseSnapshot(version, best or last))
        self.snapshots.release(version, save=best or last)
        patience = self.job.config.run.early_stop_patience
        if last:
            self.recorder.stop_clock()
            self._dismiss_all()
        elif patience and self.best.evaluations_since >= patience:
            self._stopped_by = "early_stop"
            self.decide(Stop())

    # Checkpoints and the end

    def write(self, key: int, snapshot: Snapshot) -> None:
        state = {
            "version": snapshot.version,
            "tokens": snapshot.tokens,
            "clocks": {str(rank): clock for rank, clock in snapshot.clocks.items()},
            "best": self.best.record(),
        }
        self._commits.begin(key, self._identity | state)
        super().write(key, snapshot)

    def _at_rest(self) -> bool:
        return self.snapshots.idle() and self._commits.idle()

    def _finish(self) -> None:
        self.endpoint.flush(
            [self.endpoint.send(server, m.Finish()) for server in self.job.servers[1:]]
        )
        self._write_summary(self._stopped_by)
        self.finished = True

    def _write_summary(self, stopped_by: str) -> None:
        self.recorder.finish(stopped_by, self.policy.max_clock_gap, self.best.loss)

    def _end_by_signal(self, name: str) -> None:
        kept = self._end_early("signal")
        raise Ended(f"stopped by {name}; {kept}")

    def _end_early(self, stopped_by: str) -> str:
        """Write the summary, then save what there is; return a sentence that says where."""
        self.recorder.stop_clock()
        self._write_summary(stopped_by)
        try:
            path = self._save_now(time.monotonic() + LAST_SAVE_S)
        except CheckpointError as error:
            return f"the weights so far could not be saved: {error}"
        if path is None:
            return f"no checkpoint could be written within {LAST_SAVE_S:g} s"
        return f"the weights so far are in {path}"

    def _save_now(self, deadline: float) -> Path | None:
        """Save the present version on all servers; return where, None if it takes too long."""
        while self._update is not None and time.monotonic() < deadline:
            self._settle()
        version = self.version
        for server in self.job.servers[1:]:
            self.endpoint.send(server, m.TakeSnapshot(version))
            self.endpoint.send(server, m.ReleaseSnapshot(version, save=True))
        self.snapshots.keep(version, hold=False, save=True)
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
