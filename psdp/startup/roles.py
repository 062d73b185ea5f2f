"""The roles of ranks: one that computes, or one that holds a shard and leads or follows."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Collection
from pathlib import Path

from psdp.checkpoint import Elsewhere, Objects
from psdp.errors import ConfigError
from psdp.job import Job
from psdp.nn.profile import clock_of
from psdp.records.console import Console
from psdp.records.events import events_file
from psdp.records.metrics import Best
from psdp.records.profile import UNPROFILED, Profile
from psdp.records.record import Record
from psdp.records.recorder import Recorder
from psdp.records.replay import Replay, Script
from psdp.records.shadow import Shadow
from psdp.servers.copying import Copier, Copying
from psdp.servers.follower import Follower
from psdp.servers.joining import Handed
from psdp.servers.leader import Leader
from psdp.servers.membership import Earlier
from psdp.servers.noting import Noting
from psdp.servers.role import Role
from psdp.servers.serving import Serving
from psdp.servers.terms import Terms
from psdp.startup.asking import Asking
from psdp.startup.describing import describe
from psdp.startup.ready import Ready, store_of
from psdp.startup.recording import record_of, start_of, timeline_of, track
from psdp.startup.resume import changes
from psdp.transport import Endpoint
from psdp.transport.reducer import Reducer
from psdp.workers.worker import Worker


def make_worker(
    ready: Ready, endpoint: Endpoint, reducer: Reducer | None, asking: Asking
) -> Worker:
    """Return the worker of a rank."""
    assert ready.replica is not None
    return Worker(
        ready.job,
        endpoint,
        ready.replica,
        reducer=reducer,
        snapshot=ready.snapshot,
        inner=ready.inner,
        store=store_of(ready),
        signalled=asking.asked,
        timeline=timeline_of(ready, endpoint.rank),
    )


def make_holder(ready: Ready, endpoint: Endpoint, asking: Asking) -> Terms:
    """Return what a rank does that holds a shard, from the start or from its checkpoint on."""
    making = Holding(ready, endpoint, asking)
    return Terms(making.first(), making.follow)


class Holding:
    """Makes the roles of a rank that holds a shard, one after the other."""

    def __init__(self, ready: Ready, endpoint: Endpoint, asking: Asking) -> None:
        self._ready = ready
        self._endpoint = endpoint
        self._asking = asking
        self._store = store_of(ready)
        self._timeline = timeline_of(ready, endpoint.rank)
        self._gone: dict[int, str] = {}
        manifest = ready.manifest
        self._best = Best() if manifest is None else Best.from_record(manifest.state["best"])

    def first(self) -> Leader | Follower:
        """Return the role in the first term."""
        ready, run, job = self._ready, self._ready.job.config.run, self._ready.job
        serving = self._serve(job, None)
        leads = job.leader == self._endpoint.rank
        script, now = self._script(serving.progress.version) if leads else (None, time.monotonic)
        record = record_of(ready, serving.progress.version, now)
        if not leads:
            return self._follower(serving, self._shadow(serving), record)
        if record is not None:
            record.begin(start_of(ready, serving.progress))
        units = serving.progress.units
        console = Console(job.units, units, name=job.units_name, quiet=run.quiet)
        console.say(describe(ready, self._asking.survives, self._asking.lease_s))
        track(ready, console)
        recorder = self._recorder(serving, console, now)
        if run.profile and isinstance(serving.profile, Profile):
            recorder.profiles[self._endpoint.rank] = serving.profile
        if ready.manifest is not None:
            changed = changes(job, ready.manifest)
            recorder.resumed(None if record is None else record.start, changed)
        return Leader(
            job,
            serving,
            self._store.of_term(job.term.number),
            recorder,
            ready.identity,
            best=self._best,
            copying=Copying(self._copier(), recorder),
            record=record,
            replay=script,
            signalled=self._asking.limit(self._asking.asked),
            gone=self._all_gone,
        )

    def _script(self, version: int) -> tuple[Script | None, Callable[[], float]]:
        """Return what is to happen from a version on, if that is known, and the clock."""
        replay = self._ready.job.config.run.replay
        if self._asking.script is not None:
            script = self._asking.script()
            return script, script.now
        if replay is not None:
            return Replay(events_file(Path(replay), version)), time.monotonic
        return None, time.monotonic

    def follow(self, job: Job, before: Role) -> Leader | Follower:
        """Return the role in the term of a job, after another one."""
        serving = self._serve(job, before.serving)
        if job.leader != self._endpoint.rank:
            noting = before.noting if isinstance(before, Follower) else None
            recorder = None if noting is None else noting.recorder
            follower = self._follower(serving, recorder, before.record)
            follower.left |= before.left
            follower.told |= before.told
            if follower.noting is not None:
                follower.noting.took_over(before.job)
            return follower
        if isinstance(before, Leader):
            recorder, closed = before.recorder, before.course.closed
            copying, replay = before.copying, before.replay
        else:
            assert isinstance(before, Follower)
            assert before.noting is not None, "who stands by for the leader notes"
            recorder, closed = before.noting.recorder, self._take_over(before, serving)
            copying, replay = Copying(self._copier(), recorder), None
        leader = Leader(
            job,
            serving,
            self._store.of_term(job.term.number),
            recorder,
            self._ready.identity,
            best=self._best,
            copying=copying,
            record=before.record,
            replay=replay,
            signalled=self._asking.limit(self._asking.asked),
            gone=self._all_gone,
            earlier=Earlier(before.left, before.told, closed, before.over),
        )
        leader.noting.took_over(before.job)
        return leader

    def join(self, job: Job, handed: Handed) -> Terms:
        """Return what this rank does from the term on in which it comes to hold a shard."""
        serving = self._serve(job, None, handed)
        recorder, record = self._shadow(serving), None
        if handed.events is not None:
            record = record_of(self._ready, handed.events["first"])
            assert record is not None, "as all ranks"
            record.go_on(handed.events)
        follower = self._follower(serving, recorder, record)
        follower.left |= handed.left
        follower.told |= handed.left
        if recorder is not None and handed.records is not None:
            recorder.go_on(handed.records)
            assert isinstance(self._ready.folder, Shadow)
            self._ready.folder.follow(handed.records["token"])
            self._asking.stands_by()
        return Terms(follower, self.follow)

    def _take_over(self, before: Follower, serving: Serving) -> set[int]:
        """Go on with the records in place of the rank that wrote them; return the versions that it
        has evaluated."""
        folder, job, progress = self._ready.folder, serving.job, serving.progress
        assert isinstance(folder, Shadow)
        assert before.noting is not None
        quiet = job.config.run.quiet
        console = Console(job.units, progress.units, name=job.units_name, quiet=quiet)
        try:
            track(self._ready, console)
        except ConfigError as error:  # it may be installed on rank 0's host alone
            console.say(f"{error}; the run goes on without it")
        records = folder.take_over()
        if before.record is not None:
            before.record.take_over()
        evaluations = [record for record in records if record["kind"] == "eval"]
        for record in evaluations:
            loss = record["val_loss"]
            self._best.better(math.inf if loss is None else loss, record["version"])
        before.noting.recorder.take_over(console, records)
        self._asking.leads()
        return {record["version"] for record in evaluations}

    def _copier(self) -> Copier | None:
        """Return what copies checkpoints elsewhere, where that is wanted."""
        run, objects = self._ready.job.config.run, self._ready.elsewhere
        url, folder, keep = run.checkpoint_to, self._ready.folder.path, run.keep_checkpoints
        if url is None:
            return None
        return Copier(url, lambda: Elsewhere(objects or Objects(url), folder, keep))

    def _serve(self, job: Job, before: Serving | None, handed: Handed | None = None) -> Serving:
        ready = self._ready
        assert ready.shard is not None
        profile = UNPROFILED
        if self._endpoint.rank in job.holders[0]:
            profile = Profile(clock_of(ready.shard.backend))
        snapshot, held = ready.snapshot if before is None else None, []
        if handed is not None:
            snapshot, *held = handed.copies
        serving = Serving(
            job,
            self._endpoint,
            ready.shard,
            self._store.of_term(job.term.number),
            snapshot,
            before=before,
            held=held,
            profile=profile if before is None else before.profile,
            timeline=self._timeline,
        )
        if handed is not None:
            serving.known.extend(handed.known)
            serving.progress.units_before = handed.units_before
        return serving

    def _follower(
        self, serving: Serving, recorder: Recorder | None, record: Record | None
    ) -> Follower:
        job = serving.job
        notes = recorder is not None and self._endpoint.rank in job.holders[0]
        return Follower(
            serving,
            noting=Noting(job, recorder, record=record) if recorder and notes else None,
            record=record,
            signalled=self._asking.asked,
            gone=self._all_gone,
        )

    def _shadow(self, serving: Serving) -> Recorder | None:
        """Return what takes the records that the leader writes, at who may take over from it."""
        if self._endpoint.rank not in serving.job.holders[0]:
            return None
        return self._recorder(serving, Console(0, 0, name=serving.job.units_name, quiet=True))

    def _recorder(
        self, serving: Serving, console: Console, now: Callable[[], float] = time.monotonic
    ) -> Recorder:
        ready, job = self._ready, serving.job
        return Recorder(
            job,
            ready.folder,
            console,
            version=serving.progress.version,
            units=serving.progress.units,
            transport=ready.transport,
            kernels=ready.kernels,
            val_split_units=job.task.validation_split_units or job.task.validation_units,
            now=now,
        )

    def _all_gone(self) -> Collection[tuple[int, str]]:
        """Return all ranks of which the launcher has told so far, in whatever term."""
        self._gone.update(self._asking.gone())
        return list(self._gone.items())
