"""The records of a run on rank 0: lines of metrics, the summary, and what a person sees."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

from psdp.job import Job
from psdp.protocol import Apply, Sums
from psdp.records.console import Console
from psdp.records.folder import RunFolder
from psdp.records.metrics import Histogram, Interval, finite, perplexity
from psdp.records.profile import Cost, Profile
from psdp.records.reasons import StoppedBy
from psdp.transport.messages import Spent, Totals


class Recorder:
    """Takes what happens to the weights; writes it down.

    Args:
        tokens: processed before this start of the run.
        transport: how vectors go between servers and workers.
        kernels: of each rank, by name.
        val_split_units: of the whole validation split, in the task's unit.
        now: a clock in seconds.

    Attributes:
        weights_sha256: of the weights that were evaluated last.
        server_cpu_s: of each server, the seconds of its core that it has used so far.
        apply_s: seconds that rank 0 took to average gradients and update its weights.
        profiles: of the ranks that have been profiled.
    """

    def __init__(
        self,
        job: Job,
        folder: RunFolder,
        console: Console,
        *,
        version: int = 0,
        tokens: int = 0,
        transport: str = "messages",
        kernels: Sequence[str],
        val_split_units: int = 0,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self.console = console
        self.weights_sha256: str | None = None
        self.server_cpu_s: dict[int, float] = {}
        self.apply_s = 0.0
        self.profiles: dict[int, Profile] = {}
        self._job = job
        self._transport = transport
        self._kernels = kernels
        self._val_split_units = val_split_units
        self._val_units: int | None = None
        self._folder = folder
        self._now = now
        self._start_s = now()
        self._stop_s: float | None = None
        self._start_version, self._version = version, version
        self._start_tokens, self._tokens = tokens, tokens
        self._interval = Interval(self._start_s)
        self._lags = Histogram()
        self._modes: list[dict[str, Any]] = []
        self._evaluation: dict[str, Any] = {}
        self._lr, self._norm = 0.0, 0.0
        self._clocks: dict[int, int] = {}
        self._totals: dict[int, Totals] = {}
        self._dropped = dict.fromkeys(job.workers, 0)

    def totals(self, rank: int, totals: Totals) -> None:
        """Keep a worker's latest totals of time and bytes."""
        self._totals[rank] = totals

    def dropped(self, rank: int) -> None:
        """Note that a worker's gradient came too late."""
        self._dropped[rank] += 1

    def spent(self, rank: int, message: Spent) -> None:
        """Keep what one kind of a worker's work has taken so far."""
        profile = self.profiles.setdefault(rank, Profile())
        profile.steps = message.steps
        profile.costs[message.kind] = Cost(
            message.calls, message.seconds, message.flops, message.bytes
        )

    def updated(
        self,
        apply: Apply,
        loss: float,
        norm: float,
        lr: float,
        tokens: int,
        clocks: dict[int, int],
    ) -> None:
        """Note an update; write a train record where one is due. ``tokens``: processed so far."""
        before, self._version, self._tokens = self._tokens, apply.version, tokens
        self._lags.add(apply.lags)
        self._interval.add(apply.tokens, loss, apply.lags)
        self.console.advance(apply.tokens, loss, sum(apply.lags) / len(apply.lags))
        self._lr, self._norm, self._clocks = lr, norm, clocks
        first = apply.version == self._start_version + 1
        last = tokens == self._job.tokens
        if first or last or self._job.due(self._job.config.run.log_every, before, tokens):
            self._write_interval()

    def _write_interval(self) -> None:
        """Write a train record of the updates since the last one."""
        now, interval = self._now(), self._interval
        record = {
            "kind": "train",
            "time_s": round(now - self._start_s, 4),
            "tokens": self._tokens,
            "version": self._version,
            "loss": finite(interval.loss),
            "lr": self._lr,
            "grad_norm": finite(self._norm),
            "tokens_per_s": round(interval.tokens_per_s(now), 1),
            "version_lag": interval.lags.mean(),
            "clocks": {str(rank): clock for rank, clock in self._clocks.items()},
        }
        self._interval = Interval(now)
        self._folder.append_metrics(record)
        self.console.progress(record, self._step(self._tokens))

    def evaluated(self, total: Sums, version: int, tokens: int, *, best: bool) -> None:
        """Write an eval record of the weights that had processed ``tokens``."""
        loss, self._val_units = total.loss / total.tokens, total.tokens
        self._evaluation = {
            "val_loss": finite(loss),
            "perplexity": perplexity(loss),
            "accuracy": total.correct / total.tokens,
        }
        record = {
            "kind": "eval",
            "time_s": round(self._now() - self._start_s, 4),
            "tokens": tokens,
            "version": version,
            **self._evaluation,
        }
        self._folder.append_metrics(record)
        self.console.say(
            f"step {self._step(tokens):6d}  validation loss {loss:.4f}  perplexity "
            f"{self._evaluation['perplexity'] or float('inf'):.2f}  accuracy "
            f"{self._evaluation['accuracy']:.3f}{'  (best)' if best else ''}"
        )

    def _step(self, tokens: int) -> int:
        """Return the step that is under way, or ends, at so many tokens."""
        return -(-tokens // self._job.tokens_per_step)

    def switched(self, mode: str, reason: str) -> None:
        """Note that a run that chooses its mode goes over to this one, and why."""
        record = {
            "kind": "mode",
            "time_s": round(self._now() - self._start_s, 4),
            "tokens": self._tokens,
            "version": self._version,
            "mode": mode,
            "reason": reason,
        }
        self._modes.append({"version": self._version, "mode": mode})
        self._folder.append_metrics(record)
        self.console.say(f"step {self._step(self._tokens):6d}  from now on {mode}: {reason}")

    def resumed(self) -> None:
        """Note that the run goes on here: records of later versions above are not of it."""
        record = {"kind": "resume", "time_s": 0.0, "tokens": self._tokens, "version": self._version}
        self._folder.append_metrics(record)

    def reached(self, version: int, tokens: int) -> None:
        """Note how far the run has come, whatever was noted before."""
        self._version, self._tokens = version, tokens

    def stop_clock(self) -> None:
        """Training and its last evaluation are over; what follows is not the run's time."""
        if self._interval.updates:
            self._write_interval()
        self._stop_s = self._now()

    def finish(self, stopped_by: StoppedBy, clock_gaps: Counter[int], best_val_loss: float) -> None:
        """Write summary.json and say where it is. ``clock_gaps``: with which workers were told to
        go on; how many of each."""
        wall_s = (self._stop_s if self._stop_s is not None else self._now()) - self._start_s
        totals = {str(rank): self._totals[rank] for rank in sorted(self._totals)}
        summary = {
            "mode": self._job.config.run.mode,
            "workers": len(self._job.workers),
            "servers": len(self._job.servers),
            "transport": self._transport,
            "steps": self._tokens // self._job.tokens_per_step,
            "tokens": self._tokens,
            "version": self._version,
            "wall_s": round(wall_s, 3),
            "tokens_per_s": round((self._tokens - self._start_tokens) / max(wall_s, 1e-9), 1),
            "val_loss": self._evaluation.get("val_loss"),
            "val_units": self._val_units,
            "val_split_units": self._val_split_units,
            "best_val_loss": finite(best_val_loss),
            "perplexity": self._evaluation.get("perplexity"),
            "accuracy": self._evaluation.get("accuracy"),
            "max_clock_gap": max(clock_gaps, default=0),
            "clock_gap": Histogram(clock_gaps).record(),
            "version_lag": self._lags.record(),
            "dropped": {str(rank): count for rank, count in self._dropped.items() if count},
            "compute_s": {rank: round(total.compute_s, 3) for rank, total in totals.items()},
            "push_s": {rank: round(total.push_s, 3) for rank, total in totals.items()},
            "wait_s": {rank: round(total.wait_s, 3) for rank, total in totals.items()},
            "pull_s": {rank: round(total.pull_s, 3) for rank, total in totals.items()},
            "server_cpu_s": {
                str(rank): round(self.server_cpu_s[rank], 3) for rank in sorted(self.server_cpu_s)
            },
            "apply_s": round(self.apply_s, 4),
            "bytes_pushed": sum(total.pushed_bytes for total in totals.values()),
            "bytes_pulled": sum(total.pulled_bytes for total in totals.values()),
            "modes": self._modes,
            "stopped_by": stopped_by,
            "weights_sha256": self.weights_sha256,
        }
        self._folder.write_summary(summary)
        self.console.close()
        self._write_profiles()
        loss = summary["val_loss"]
        self.console.say(
            f"{summary['steps']} steps, {self._tokens:,} tokens in {wall_s:.1f} s "
            f"({summary['tokens_per_s']:,.0f} tokens/s), validation loss "
            f"{'not measured' if loss is None else f'{loss:.4f}'}, stopped by {stopped_by}; "
            f"results in {self._folder.path}"
        )

    def _write_profiles(self) -> None:
        """Write profile.json where ranks were profiled; show rank 0's and the first worker's."""
        if not self.profiles:
            return
        run, servers = self._job.config.run, self._job.servers
        record = {
            str(rank): {
                "role": "server" if rank in servers else "worker",
                "kernels": self._kernels[rank],
                **self.profiles[rank].record(),
            }
            for rank in sorted(self.profiles)
        }
        self._folder.write_profile({"precision": run.precision, "ranks": record})
        for rank in (self._job.workers[0], servers[0]):
            if rank in self.profiles:
                profile, of = self.profiles[rank], record[str(rank)]
                self.console.say(
                    f"where the time of {of['role']} {rank} went, {of['kernels']} kernels, "
                    f"{run.precision} products, {profile.steps} steps:\n{profile.table()}"
                )
