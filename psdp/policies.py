"""The policy of each mode, for a job: beside the table of modes the one place that knows their
names."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from psdp.job import Job
from psdp.modes import CANDIDATES, Merge, Pushed
from psdp.protocol import (
    Adaptive,
    Asynchronous,
    Deck,
    Lockstep,
    Phase,
    Policy,
    StaleBounded,
    Synchronous,
)


@dataclass(frozen=True)
class Start:
    """What a policy begins with: its workers, the gradients still to be accepted, and what is known
    of what was before."""

    workers: Iterable[int]
    budget: int
    known: Mapping[str, Any] = field(default_factory=dict)


def make_policy(
    job: Job, version: int, clocks: Mapping[int, int], batches: Iterable[tuple[int, int]] = ()
) -> Policy | Adaptive:
    """Return the policy of a job's mode, to go on from a version with these gradients accepted, of
    these batches where they are dealt out."""
    budget = max(0, job.gradients - sum(clocks.values()))
    dealt = {"deck": Deck(batches) if job.deals else None}
    so_far: dict[str, Any] = {"version": version, "clocks": clocks}
    if not job.mode.chooses:
        return _BUILDERS[job.mode.name](job, Start(job.workers, budget, dealt | so_far))

    def start(name: str, phase: Phase) -> Policy:
        # Whoever trains alone for longer or shorter than the others was seen to be fast or slow.
        known = {"version": phase.version, "step_s": phase.step_s, "paced": True}
        own = job.within(CANDIDATES[name])
        return _BUILDERS[own.mode.name](own, Start(phase.workers, phase.budget, dealt | known))

    return Adaptive(start, next(iter(CANDIDATES)), job.workers, budget, deals=job.deals, **so_far)


def _synchronous(job: Job, start: Start) -> Policy:
    backups = job.config.run.backup_workers
    return Synchronous(start.workers, start.budget, backup_workers=backups, **start.known)


def _asynchronous(job: Job, start: Start) -> Policy:
    inverse = job.config.optim.lag_compensation == "inverse"
    return Asynchronous(start.workers, start.budget, inverse_lag=inverse, **start.known)


def _stale_bounded(job: Job, start: Start) -> Policy:
    staleness, optim = job.config.run.staleness, job.config.optim
    assert staleness is not None, "settings are resolved"
    inverse = optim.lag_compensation == "inverse"
    return StaleBounded(
        start.workers, start.budget, staleness=staleness, inverse_lag=inverse, **start.known
    )


def _local(job: Job, start: Start) -> Policy:
    run = job.config.run
    each = run.merge == Merge.EACH
    kind: type[Policy] = Asynchronous if each else Synchronous
    return kind(
        start.workers,
        start.budget,
        push=Pushed.SHARE if each else Pushed.CHANGE,
        local_steps=run.local_steps or 1,
        **{"paced": each, **start.known},
    )


def _elastic(job: Job, start: Start) -> Policy:
    steps = job.config.run.local_steps or 1
    return Asynchronous(
        start.workers, start.budget, push=Pushed.WEIGHTS, local_steps=steps, **start.known
    )


def _lockstep(job: Job, start: Start) -> Policy:
    run = job.config.run
    meetings = [every for every in (run.eval_every, run.checkpoint_every) if every]
    return Lockstep(
        start.workers, start.budget, push=Pushed.NOTHING, meetings=meetings, **start.known
    )


_BUILDERS: dict[str, Callable[[Job, Start], Policy]] = {
    "sync": _synchronous,
    "async": _asynchronous,
    "ssp": _stale_bounded,
    "local": _local,
    "easgd": _elastic,
    "allreduce": _lockstep,
}
