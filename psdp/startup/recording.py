"""The record of a start's events, with the line that it begins with; and who else is told of what
is recorded."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from typing import Any

import psdp
from psdp.checkpoint.layout import ATTACHED
from psdp.records.console import Console
from psdp.records.events import digest_of, events_file
from psdp.records.folder import CONFIG
from psdp.records.record import Record
from psdp.records.timeline import NOBODY_LOOKS, Timeline, WrittenTimeline
from psdp.records.tracking import Tracking
from psdp.servers.progress import Progress
from psdp.startup.ready import Ready, Waiting
from psdp.terminal import voice_of


def record_of(
    ready: Ready, version: int, now: Callable[[], float] = time.monotonic
) -> Record | None:
    """Return the record of what happens from a version on, if the run is to be recorded.

    Args:
        now: a clock in seconds.
    """
    if not ready.job.config.run.record:
        return None
    folder = ready.folder
    return Record(events_file(folder.path, version), version, folder.check, now)


def track(ready: Ready, console: Console) -> None:
    """Have trackers be told of what is written to the run folder from now on, if any are wanted.

    Raises:
        ConfigError: one cannot be made.
    """
    job, folder = ready.job, ready.folder
    if job.config.run.track:
        name = job.units_name
        tracking = Tracking(job.config.run.track, lambda of: job.step_of(of[name]), console.say)
        tracking.begin(folder.path, json.loads((folder.path / CONFIG).read_bytes()))
        folder.tracking = tracking


def timeline_of(ready: Ready | Waiting, rank: int) -> Timeline:
    """Return what takes note of what a rank does when, if that is wanted."""
    if not ready.cast.config.run.trace:
        return NOBODY_LOOKS
    return WrittenTimeline(ready.folder.path, rank, voice_of(rank))


def start_of(ready: Ready, progress: Progress) -> dict[str, Any]:
    """Return of which job the events are, and what they go on from."""
    job, manifest = ready.job, ready.manifest
    before = None
    if manifest is not None:
        before = {
            "checkpoint": manifest.folder.resolve().name,
            "digest": manifest.digest,
            "events": manifest.state.get("events"),
            "best": manifest.state["best"]["val_loss"],
        }
    return {
        "psdp": psdp.__version__,
        "settings": dict(ready.identity["settings"]),
        "workers": len(job.workers),
        "servers": len(job.servers),
        "ranks": len(job.worker_ranks),
        "unit": job.task.unit,
        "units_per_batch": job.task.units_per_batch,
        "identity": {
            name: digest_of(told) for name, told in ready.identity.items() if name != ATTACHED
        },
        "from": before,
        "version": progress.version,
        "units": progress.units,
        "clocks": {str(worker): clock for worker, clock in progress.clocks.items()},
        "batches": progress.batches.pairs(),
        "token": ready.folder.token,
    }
