"""The records of a run on rank 0: lines of metrics, the summary, and what a person sees."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from psdp.job import Job
from psdp.memory import OwnMemory, Usage
from psdp.protocol import Apply, Choice, Sums
from psdp.records.accounts import Accounts
from psdp.records.changes import Changes
from psdp.records.console import Console
from psdp.records.events import Seal
from psdp.records.folder import RunFolder
from psdp.records.metrics import (
    Histogram,
    Interval,
    StepTimes,
    finite,
    measures_of,
    told_in_line,
)
from psdp.records.profile import Cost, Profile
from psdp.records.profiles import write_profiles
from psdp.records.reasons import StoppedBy
from psdp.transport.messages import Spent, Totals


class Recorder(Accounts):
    """Takes what happens to the weights; writes it down.

    Args:
        units: processed before this start of the run.
        transport: how vectors go between servers and workers.
        kernels: of each rank, by name.
        val_split_units: of the whole validation split, in the task's unit.
        memory: of this process.
        now: a clock in seconds.

    Attributes:
        weights_sha256: of the weights that were evaluated last.
        server_cpu_s: of each server, the seconds of its core that it has used so far.
        apply_s: seconds that rank 0 took to average gradients and update its weights.
        profiles: of the ranks that have been profiled.
        counts: of what has happened, by the names that the summary has for it.
        step_times: of the gradients that were applied.
        changes: of mode.
        late: by worker, its gradients that were dropped in this term.
        events: how far the record of events has come, if there is one.
    """

    def __init__(
        self,
        job: Job,
        folder: RunFolder,
        console: Console,
        *,
        version: int = 0,
        units: int = 0,
        transport: str = "messages",
        kernels: Sequence[str | None],
        val_split_units: int = 0,
        memory: OwnMemory | None = None,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self.console = console
        self.begun = False  # there was an update in this start
        self.weights_sha256: str | None = None
        self.server_cpu_s: dict[int, float] = {}
        self.apply_s, self.step_times = 0.0, StepTimes()
        self.profiles: dict[int, Profile] = {}
        counted = ("failures", "spares_failed", "moves", "copies", "copies_failed")
        self.counts = dict.fromkeys(counted, 0)
        if job.stands_by:
            self.counts |= {"takeovers": 0, "joins": 0}
        self.events: Seal | None = None
        self._job, self._name = job, job.units_name
        self._transport, self._kernels = transport, kernels
        self._val_split_units = val_split_units
        self._val_units: int | None = None
        self._memory = memory or OwnMemory()
        self._folder, self._now = folder, now
        self._start_s = now()
        self._stop_s: float | None = None
        self._start_version, self._version = version, version
        self._start_units, self._units = units, units
        self._interval = Interval(self._start_s)
        self._lags = Histogram()
        self.changes = Changes()
        self._evaluation: dict[str, Any] = {}
        self._lr, self._norm = 0.0, 0.0
        self._clocks: dict[int, int] = {}
        self._totals: dict[int, Totals] = {}
        self.late: Counter[int] = Counter()

    def totals(self, rank: int, totals: Totals) -> None:
        """Keep a worker's latest totals of time and bytes."""
        self._totals[rank] = totals

    def dropped(self, worker: int) -> None:
        """Note that a worker's gradient came too late."""
        self.late[worker] += 1

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
        units: int,
        clocks: dict[int, int],
    ) -> None:
        """Note an update; write a train record where one is due. ``units``: processed so far."""
        self.begun = True
        before, self._version, self._units = self._units, apply.version, units
        self._lags.add(apply.lags)
        self._interval.add(apply, loss)
        self.console.advance(apply.units, loss, sum(apply.lags) / len(apply.lags))
        self._lr, self._norm, self._clocks = lr, norm, clocks
        first = apply.version == self._start_version + 1
        last = units == self._job.units
        if first or last or self._job.due(self._job.config.run.log_every, before, units):
            self._write_interval()

    def _write_interval(self) -> None:
        """Write a train record of the updates since the last one."""
        now, interval = self._now(), self._interval
        record = {
            "kind": "train",
            "time_s": round(now - self._start_s, 4),
            self._name: self._units,
            "version": self._version,
            "loss": finite(interval.loss),
            "lr": self._lr,
            "grad_norm": finite(self._norm),
            f"{self._name}_per_s": round(interval.units_per_s(now), 1),
            "version_lag": interval.lags.mean(),
            "clocks": {str(worker): clock for worker, clock in self._clocks.items()},
        }
        self._interval = Interval(now)
        self._folder.append_metrics(record)
        self.console.progress(record, self._step(self._units))

    def evaluated(self, total: Sums, version: int, units: int, *, best: bool) -> None:
        """Write an eval record of the weights that had processed ``units``."""
        loss, self._val_units = total.loss / total.units, total.units
        measures = self._measured(measures_of(total, self._job.task.validation_bytes))
        self._evaluation = {"val_loss": finite(loss), **measures}
        record = {
            "kind": "eval",
            "time_s": round(self._now() - self._start_s, 4),
            self._name: units,
            "version": version,
            **self._evaluation,
            "weights_sha256": self.weights_sha256,
        }
        self._folder.append_metrics(record)
        self.console.say(
            f"step {self._step(units):6d}  validation loss {loss:.4f}{told_in_line(measures)}"
            f"{'  (best)' if best else ''}"
        )

    def _measured(self, measures: Mapping[str, Any]) -> dict[str, Any]:
        """Return those of these that have a meaning for the task."""
        return {name: of for name, of in measures.items() if name in self._job.task.measures}

    def _step(self, units: int) -> int:
        """Return the step that is under way, or ends, at so many units."""
        return -(-units // self._job.units_per_step)

    def switched(self, mode: str, choice: Choice | None) -> None:
        """Note that a run that chooses its mode goes over to this one, and why, if that is
        known."""
        how = self.changes.switched(self._version, mode, choice)
        self.happened("mode", how, f"from now on {mode}: {how['reason']}")

    def stayed(self, choice: Choice) -> None:
        """Note that a run that chooses its mode stays in the present one; say why at first."""
        if self.changes.stayed(self._version, choice):
            self.console.say(f"stays in {choice.mode}: {choice.reason}")

    def take_over(self, console: Console, records: Sequence[Mapping[str, Any]]) -> None:
        """Say from now on what another rank did, and go on with its records of this start."""
        self.console = console
        self.counts |= _counted(records)
        self.changes.take_over(record for record in records if record["kind"] == "mode")
        for record in (record for record in records if record["kind"] == "eval"):
            self._val_units = self._job.task.validation_units
            self._evaluation = self._measured(record) | {"val_loss": record["val_loss"]}
            self.weights_sha256 = record["weights_sha256"]

    def happened(self, kind: str, what: dict[str, Any], said: str | None = None) -> None:
        """Write a record of what happens between two updates; say it, in these words if any."""
        record = {
            "kind": kind,
            "time_s": round(self._now() - self._start_s, 4),
            self._name: self._units,
            "version": self._version,
            **what,
        }
        self._folder.append_metrics(record)
        if said is not None:
            self.console.say(f"step {self._step(record[self._name]):6d}  {said}")

    def resumed(self, events: str | None, changed: dict[str, Any]) -> None:
        """Note that the run goes on here, with these settings changed, and its record of events, if
        it has one, begins with this hash: records of later versions above are not of it."""
        at = {"time_s": 0.0, self._name: self._units, "version": self._version}
        self._folder.append_metrics({"kind": "resume", **at, "events": events, "changed": changed})

    def reached(self, version: int, units: int) -> None:
        """Note how far the run has come, whatever was noted before."""
        self._version, self._units = version, units

    def stop_clock(self) -> None:
        """Training and its last evaluation are over; what follows is not the run's time."""
        if self._interval.updates:
            self._write_interval()
        self._stop_s = self._now()

    def finish(self, stopped_by: StoppedBy, clock_gaps: Counter[int], best_val_loss: float) -> None:
        """Write summary.json and say where it is. ``clock_gaps``: with which workers were told to
        go on; how many of each."""
        wall_s = (self._stop_s if self._stop_s is not None else self._now()) - self._start_s
        rate = round((self._units - self._start_units) / max(wall_s, 1e-9), 1)
        totals = {str(rank): self._totals[rank] for rank in sorted(self._totals)}
        summary = {
            "mode": self._job.config.run.mode,
            "workers": len(self._job.workers),
            "servers": len(self._job.servers),
            "transport": self._transport,
            "steps": self._units // self._job.units_per_step,
            self._name: self._units,
            "version": self._version,
            "wall_s": round(wall_s, 3),
            f"{self._name}_per_s": rate,
            "val_loss": self._evaluation.get("val_loss"),
            "val_units": self._val_units,
            "val_split_units": self._val_split_units,
            "best_val_loss": finite(best_val_loss),
            **{name: self._evaluation.get(name) for name in self._job.task.measures},
            "max_clock_gap": max(clock_gaps, default=0),
            "clock_gap": Histogram(clock_gaps).record(),
            "version_lag": self._lags.record(),
            "dropped": {str(worker): self.late[worker] for worker in sorted(self.late)},
            **self.counts,
            **_seconds_of(totals),
            **_memory_of({self._job.leader: self._memory.usage()}, totals),
            "step_times": self.step_times.record(),
            "server_cpu_s": _rounded(self.server_cpu_s),
            "apply_s": round(self.apply_s, 4),
            **_bytes_of(totals),
            **self.changes.summary(),
            "stopped_by": stopped_by,
            "weights_sha256": self.weights_sha256,
            "events": None if self.events is None else self.events.record(),
        }
        self._folder.write_summary(summary)
        self.console.close()
        if self.profiles:
            write_profiles(self._job, self.profiles, self._kernels, self._folder, self.console)
        self.console.say(f"{_in_words(summary, self._name)}; results in {self._folder.path}")


def _in_words(summary: Mapping[str, Any], units: str) -> str:
    """Return the gist of a summary whose budget is in these units."""
    loss = summary["val_loss"]
    return (
        f"{summary['steps']} steps, {summary[units]:,} {units} in {summary['wall_s']:.1f} s "
        f"({summary[f'{units}_per_s']:,.0f} {units}/s), validation loss "
        f"{'not measured' if loss is None else f'{loss:.4f}'}, stopped by {summary['stopped_by']}"
    )


def _seconds_of(totals: Mapping[str, Totals]) -> dict[str, dict[str, float]]:
    """Return the seconds of each rank by kind."""
    kinds = "compute_s", "push_s", "wait_s", "pull_s"
    return {
        kind: {rank: round(getattr(total, kind), 3) for rank, total in totals.items()}
        for kind in kinds
    }


def _bytes_of(totals: Mapping[str, Totals]) -> dict[str, int]:
    """Return the bytes that moved, of all ranks together."""
    return {
        "bytes_pushed": sum(total.pushed_bytes for total in totals.values()),
        "bytes_pulled": sum(total.pulled_bytes for total in totals.values()),
    }


def _memory_of(own: Mapping[int, Usage], totals: Mapping[str, Totals]) -> dict[str, dict[str, int]]:
    """Return what the process of each rank, as far as that is known, has had of memory."""
    of = {str(rank): usage for rank, usage in own.items()}
    of |= {rank: total.memory for rank, total in totals.items()}
    return {
        "peak_bytes": {rank: usage.peak_bytes for rank, usage in of.items()},
        "page_faults": {rank: usage.page_faults for rank, usage in of.items()},
    }


def _rounded(seconds: Mapping[int, float]) -> dict[str, float]:
    return {str(rank): round(seconds[rank], 3) for rank in sorted(seconds)}


def _counted(records: Sequence[Mapping[str, Any]]) -> dict[str, int]:
    """Return how often what is counted has happened, by records."""
    kinds = Counter(record["kind"] for record in records)
    lost = kinds["failure"] + kinds["takeover"] + kinds["standby"]
    copies = {"copies": kinds["copy"], "copies_failed": kinds["copy_failed"]}
    changes = {"moves": kinds["move"], "takeovers": kinds["takeover"], "joins": kinds["join"]}
    spares = sum(record.get("spare", False) for record in records)
    return {"failures": lost, "spares_failed": spares, **changes, **copies}
