"""The step of going on from a checkpoint, if it is of this job, or replaying a run."""

from __future__ import annotations

import json
from collections.abc import Callable, Container, Mapping, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from psdp.checkpoint import (
    Inner,
    Manifest,
    Snapshot,
    read_manifest,
    read_shard,
    read_span,
    read_worker,
)
from psdp.config import Config, OptimConfig, flag_of
from psdp.errors import CheckpointError, PsdpError, ReplayError
from psdp.job import Job
from psdp.optim.schedule import Schedule
from psdp.records.events import Line, events_file, read_lines
from psdp.records.folder import CONFIG
from psdp.startup.elsewhere import RUN
from psdp.startup.origin import begun
from psdp.startup.step import Nothing, Step

UNSEEN = frozenset(
    {
        "max_steps", "eval_every", "eval_batches", "early_stop_patience", "out",
        "checkpoint_every", "keep_checkpoints", "resume", "threads", "transport", "device",
        "server_device", "kernels", "log_every", "profile", "quiet", "corpus", "val_corpus",
        "straggler", "jitter", "link_mbps", "slow_link", "record", "replay", "servers", "spares",
        "max_time", "checkpoint_to", "keep_inner", "max_failures", "standby", "trace",
        "track", "sample_every", "sample_prompt", "sample_tokens",
    }
)  # fmt: skip
"""Settings that decide how long a run is, who computes it, and what is kept and told of it."""

STEERING = frozenset(field.name for field in fields(OptimConfig)) - {
    "optimizer", "outer_optimizer", "lag_compensation",
}  # fmt: skip
"""Settings that decide what the weights become from now on, whatever a checkpoint holds."""

CHANGEABLE = UNSEEN | STEERING
"""Settings that a resumed run may change; all others decide what its past was."""

FIXED_IN_REPLAY = STEERING | {
    "max_steps", "eval_every", "eval_batches", "early_stop_patience", "servers", "spares",
}  # fmt: skip
"""Of these, what a replayed run may not change: they decide what happens when, and the numbers of
servers and of spares by which rank."""

OF_A_START = frozenset(
    {"out", "resume", "replay", "quiet", "record", "max_time", "checkpoint_to", "standby", "spares"}
)
"""Settings that each start has for itself."""


@dataclass(frozen=True)
class GoneOnFrom:
    """What a rank goes on from: with a shard, or an optimizer that all workers share; or with what
    its workers had for themselves."""

    snapshot: Snapshot | None = None
    inner: Mapping[int, Inner] = field(default_factory=dict)


@dataclass(frozen=True)
class GoOn(Step[GoneOnFrom, Nothing, None]):
    """See that a checkpoint or a recorded run is of this job; read what this rank goes on from."""

    job: Job
    manifest: Manifest | None
    rank: int

    facts = Nothing

    def act(self) -> tuple[GoneOnFrom, Nothing]:
        job, manifest = self.job, self.manifest
        if job.config.run.replay is not None:
            check_replayable(job, Path(job.config.run.replay), manifest)
        if manifest is None:
            return GoneOnFrom(), Nothing()
        check_resumable(job, manifest)
        if job.reduces:
            return GoneOnFrom(Snapshot.from_tensors(read_shard(manifest, 0))), Nothing()
        if self.rank in job.holding:
            shard = read_span(manifest, job.shards[job.shard_of(self.rank)])
            return GoneOnFrom(Snapshot.from_tensors(shard)), Nothing()
        read = {worker: read_worker(manifest, worker) for worker in job.hosted(self.rank)}
        inner = {worker: Inner.from_tensors(of) for worker, of in read.items() if of is not None}
        return GoneOnFrom(inner=inner), Nothing()

    def agree(self, facts: Mapping[int, Nothing]) -> None:
        pass


def settle(
    given: Mapping[str, Any],
    checkpoint: Path | None = None,
    origin: Mapping[str, Any] | None = None,
) -> tuple[Config, Manifest | None]:
    """Return the resolved settings and, for a resumed run, the manifest of its ``checkpoint``.

    Args:
        origin: the settings that follow from the weights with which a new run begins.

    Raises:
        ConfigError: the settings are impossible or contradict one another.
        CheckpointError: the checkpoint cannot be read, or is of a run with other settings than
            ``given``.
        ReplayError: the same of the run that is to be replayed.
    """
    resume, replay = given.get("resume"), given.get("replay")
    manifest = None if checkpoint is None else read_manifest(checkpoint)
    if replay is not None:
        told = _start_of(Path(replay), manifest)
        values = _with_workers(told["settings"], told["workers"])
        changeable = CHANGEABLE - FIXED_IN_REPLAY
        _check_unchanged(given, values, changeable, Path(replay), "--replay", ReplayError)
    elif resume is not None and manifest is not None:
        values = _with_workers(kept(manifest, "settings"), kept(manifest, "workers"))
        given = _without_origin(given, values)
        _check_unchanged(given, values, CHANGEABLE, resume, "--resume", CheckpointError)
    else:
        given = given if origin is None else begun(given, origin)
        return Config.from_flat(dict(given)).resolved(), None
    nothing = dict.fromkeys(("out", "replay", "resume", "max_time", "checkpoint_to"))
    own = {"quiet": False, "record": False, "standby": False} | nothing
    if replay is None:  # which ranks are spare follows from how many there are now
        own["spares"] = None
    return Config.from_flat(values | own | dict(given)).resolved(), manifest


def _with_workers(values: Mapping[str, Any], workers: int) -> dict[str, Any]:
    """Return the settings of a run that had so many workers, for any number of ranks."""
    return dict(values) | {"virtual_workers": workers}


def _without_origin(given: Mapping[str, Any], values: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return settings without those weights that a run began with already, as a job says them that
    is started again."""
    named, origin = given.get("init_from"), values.get("init_from")
    if named is None or origin is None or Path(named) not in (Path(origin), *Path(origin).parents):
        return given
    return {name: value for name, value in given.items() if name != "init_from"}


def _check_unchanged(
    given: Mapping[str, Any],
    values: Mapping[str, Any],
    changeable: Container[str],
    run: Path | str,
    flag: str,
    refusal: type[PsdpError],
) -> None:
    # Of a setting that is newer than the run, it had the default.
    had = Config.from_flat(dict(values))
    known = had.resolved().flat() | {name: had.flat()[name] for name in values}
    for name, value in given.items():
        if name not in changeable and value != known.get(name, value):
            raise refusal(
                f"{flag_of(name)} {value} differs from {known[name]} of the run in {run}; drop "
                f"the flag to go on with that run, or start a new one without {flag} "
                f"(--init-from {run}: with its weights)"
            )


def _told_by(run: Path, find: Callable[[Any], Any]) -> Any:
    """Return what is found in a run folder's config.json.

    Raises:
        ReplayError: it cannot be read.
    """
    path = run / CONFIG
    try:
        return find(json.loads(path.read_bytes()))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ReplayError(
            f"--replay {run}: {path} cannot be read ({type(error).__name__}); name the folder of "
            "a run that was made with --record"
        ) from error


def _start_of(run: Path, manifest: Manifest | None) -> Mapping[str, Any]:
    """Return what a run says of its start from a checkpoint, or its first one: its record does,
    which config.json is of the last alone.

    Raises:
        ReplayError: config.json cannot be read.
    """
    config: dict[str, Any] = _told_by(run, lambda told: {"ranks": ranks_that_work(told), **told})
    path = events_file(run, 0 if manifest is None else kept(manifest, "version"))
    with suppress(OSError), closing(read_lines(path)) as lines:  # a replay says what is wrong
        match next(lines, None):
            case Line(content=["start", {"settings": {}, "workers": _, "ranks": _} as told]):
                return {**config, **told}
    return config


def kept(manifest: Manifest, name: str) -> Any:
    """Return what a checkpoint says of its job under ``name`` (see :func:`identity_of`).

    Raises:
        CheckpointError: nothing; it was not written by a training job.
    """
    if name not in manifest.state:
        raise CheckpointError(
            f"{manifest.folder} does not say its {name}: it is no checkpoint of a training job"
        )
    return manifest.state[name]


def identity_of(job: Job, settings: Mapping[str, Any], run: str = "") -> dict[str, Any]:
    """Return what a checkpoint says of its job, of which these are the settings, and this the name
    of the run."""
    return {
        RUN: run,
        "settings": dict(settings),
        "workers": len(job.workers),
        **job.task.identity(),
        "layout": job.table.index(),
    }


def check_resumable(job: Job, manifest: Manifest) -> None:
    """
    Raises:
        CheckpointError: the checkpoint is of another job; the text says what differs.
    """
    folder = manifest.folder
    try:
        difference = job.task.difference(_recorded_by(manifest) | manifest.state)
    except (KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(
            f"{folder} does not say what it is of: it is no checkpoint of a training job"
        ) from error
    if difference is not None:
        raise CheckpointError(f"{folder} is of a run {difference}")
    if not job.table.same_layout(kept(manifest, "layout")):
        raise CheckpointError(f"{folder} holds other parameters than this version of psdp makes")


def _recorded_by(manifest: Manifest) -> dict[str, Any]:
    """Return what config.json of its run says, if it lies there: more than checkpoints do."""
    try:
        record = json.loads((manifest.folder.parent.parent / CONFIG).read_bytes())
    except (OSError, ValueError):
        return {}
    return record if isinstance(record, dict) else {}


def changes(job: Job, manifest: Manifest) -> dict[str, tuple[Any, Any]]:
    """Return the settings that a resumed run has changed: what each was, and is."""
    was, now = _config_of(manifest).flat(), job.config.flat()
    return {
        name: (was[name], value)
        for name, value in now.items()
        if name in CHANGEABLE - OF_A_START and was[name] != value
    }


def describe_changes(job: Job, manifest: Manifest) -> str | None:
    """Return what a resumed run has changed that decides what its weights become, and what that
    makes of its learning rate, in a line; None where it has changed nothing of the kind."""
    told = [
        f"{flag_of(name)} {now} (was {was})"
        for name, (was, now) in changes(job, manifest).items()
        if name in STEERING or name == "max_steps"
    ]
    if not told:
        return None
    steps = kept(manifest, job.units_name) / job.units_per_step
    before, after = (
        Schedule(config.optim, config.run.max_steps).lr(steps)
        for config in (_config_of(manifest), job.config)
    )
    jumps = f": the learning rate jumps from {before:.2e} to {after:.2e}"
    return f"changed: {', '.join(told)}{jumps if before != after else ''}"


def _config_of(manifest: Manifest) -> Config:
    """Return the settings that the run of a checkpoint had."""
    return Config.from_flat(dict(kept(manifest, "settings"))).resolved()


def who_begins_afresh(job: Job, manifest: Manifest) -> str | None:
    """Return of which workers a checkpoint has nothing that they had for themselves, in a line;
    None where all go on as they would have."""
    if not (job.mode.served and job.mode.own_optimizer):
        return None
    lost = [worker for worker in job.workers if manifest.workers.get(worker) is None]
    if not lost:
        return None
    who = "all workers" if len(lost) == len(job.workers) else f"worker(s) {_listed(lost)}"
    return f"{who} begin afresh with an optimizer of their own: the checkpoint has none of it"


def _listed(numbers: Sequence[int], most: int = 8) -> str:
    some = ", ".join(map(str, numbers[:most]))
    return some if len(numbers) <= most else f"{some} and {len(numbers) - most} more"


def ranks_that_work(record: Mapping[str, Any]) -> int:
    """Return how many ranks worked in a run, by its config.json."""
    return int(len(record["hosts"]) - record["servers"] - record.get("standbys", 0))


def check_replayable(job: Job, run: Path, manifest: Manifest | None) -> None:
    """
    Raises:
        ReplayError: the run to replay is of another job; the text says what differs.
    """
    ranks = int(_start_of(run, manifest)["ranks"])
    if ranks != len(job.worker_ranks):
        raise ReplayError(
            f"--replay {run}: that run had {ranks} ranks that worked, this job has "
            f"{len(job.worker_ranks)}; start {ranks + len(job.servers)} ranks"
        )
    difference = _told_by(run, job.task.difference)
    if difference is not None:
        raise ReplayError(f"--replay {run}: that run was {difference}")
