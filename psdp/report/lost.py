"""Runs that are not compared: interrupted ones, and those that diverged or failed, which count
against their rows."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from psdp.config import Config
from psdp.errors import ConfigError
from psdp.records.folder import CONFIG
from psdp.records.reasons import StoppedBy
from psdp.records.search import Search
from psdp.report.circumstances import circumstances_of, search_of, task_of
from psdp.report.points import Unusable, read_json

FINISHED = ("budget", "early_stop")
"""What stops a run that came to its end (``stopped_by`` of a summary)."""

INTERRUPTED = (
    StoppedBy.SIGNAL,
    StoppedBy.PREEMPTED,
    StoppedBy.TIME_LIMIT,
    StoppedBy.END_OF_RECORD,
)
"""What stops a run for some other reason than its own; anything else is a failure."""

DIVERGED = (StoppedBy.NON_FINITE, StoppedBy.NON_FINITE_STATE)


@dataclass(frozen=True)
class LeftOut:
    """A run that is not among those compared, and why."""

    name: str
    why: str


@dataclass(frozen=True)
class Lost(LeftOut):
    """A run that diverged or failed, and so counts against its row; attributes as of a run."""

    settings: Mapping[str, Any]
    workers: int
    servers: int
    task: str
    corpus: str
    circumstances: Mapping[str, str]
    search: Search | None

    @property
    def seed(self) -> int:
        return int(self.settings["seed"])


def failed_run(path: Path, why: str) -> LeftOut:
    """Return what there is to say of a run that is known to have failed: a :class:`Lost` one, if
    it got as far as to write its settings down."""
    try:
        return _lost(path, path.name, why, read_json(path / CONFIG))
    except (Unusable, ConfigError, KeyError, TypeError, ValueError, AttributeError):
        return LeftOut(path.name, why)


def stopped_run(
    path: Path, name: str, config: Mapping[str, Any], stopped_by: str, after: str
) -> Lost:
    """Return a run that did not come to its end.

    Raises:
        Unusable: the run was but interrupted.
    """
    if stopped_by in DIVERGED:
        why = f"diverged: {stopped_by} after {after}; a lower --lr, a longer --warmup-steps or "
        return _lost(path, name, f"{why}--grad-clip may keep it from that", config)
    why = f"stopped by {stopped_by} after {after}; --resume {path} goes on with it"
    if stopped_by in INTERRUPTED:
        raise Unusable(f"unfinished: {why}")
    return _lost(path, name, f"failed: {why}", config)


def _lost(path: Path, name: str, why: str, config: Mapping[str, Any]) -> Lost:
    task, corpus = task_of(config)
    settings = Config.from_flat(config["settings"]).resolved().flat()
    return Lost(
        name,
        why,
        settings=settings,
        workers=int(config["workers"]),
        servers=int(config["servers"]),
        task=task,
        corpus=corpus,
        circumstances=circumstances_of(config),
        search=search_of(path, settings),
    )
