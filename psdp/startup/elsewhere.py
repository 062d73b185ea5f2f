"""The step that reaches the place elsewhere to which checkpoints are to be copied, and how a run is
brought from there."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from psdp.checkpoint import (
    CHECKPOINTS,
    Absent,
    CheckpointId,
    CheckpointStore,
    Manifest,
    Objects,
    answered,
    fetch_best,
    fetch_newest,
    latest_of,
    newest_at,
    probe,
    read_manifest,
)
from psdp.checkpoint.objects import GOES_ON_S
from psdp.config import check_url
from psdp.errors import CheckpointError, ConfigError
from psdp.records.folder import CONFIG, RunFolder
from psdp.records.lock import RunLock
from psdp.startup.step import Step

RUN = "run"
"""What a checkpoint says of the run that it is of: a name that no other run has."""


@dataclass(frozen=True)
class Reached:
    """What rank 0 tells: the run's own name, which its checkpoints have."""

    run: str


@dataclass(frozen=True)
class ReachElsewhere(Step[Objects | None, Reached, str]):
    """Give the run its name, or go on with that of its checkpoints; on rank 0, see that copies can
    be written where they are to go, and that no other run's are there.

    Args:
        url: where copies are to go, if they are.
        goes_on: this run is that of the checkpoint of ``manifest``, and not one that begins there.
    """

    rank: int
    url: str | None
    manifest: Manifest | None
    goes_on: bool

    facts = Reached

    def act(self) -> tuple[Objects | None, Reached]:
        if self.rank != 0:
            return None, Reached("")
        run = None
        if self.goes_on and self.manifest is not None:
            run = self.manifest.state.get(RUN)
        run = run or secrets.token_hex(8)
        objects = None if self.url is None else answered(self.url, lambda: self._reach(run))
        return objects, Reached(run)

    def agree(self, facts: Mapping[int, Reached]) -> str:
        return facts[0].run

    def _reach(self, run: str) -> Objects:
        assert self.url is not None
        objects = Objects(self.url)
        probe(objects)
        with suppress(Absent):
            self._check_own(run, *newest_at(objects))
        return objects

    def _check_own(self, run: str, at: CheckpointId, newest: Manifest) -> None:
        if newest.state.get(RUN) != run:
            raise ConfigError(
                f"--checkpoint-to {self.url} holds another run; name another place, or go on with "
                f"that run by --resume {self.url}"
            )
        assert self.manifest is not None
        begin = CheckpointId.of(self.manifest.folder.resolve().name)
        if begin is not None and at > begin:
            raise ConfigError(
                f"--checkpoint-to {self.url} holds a later checkpoint of this run, {at.name}, than "
                f"{begin.name}; go on from there by --resume {self.url}, or name another place"
            )


def bring_run(url: str, out: str | None, tell: Callable[[str], Any]) -> tuple[RunLock, Path]:
    """Bring the newest whole checkpoint of the run at a URL, its best, and its records into a run
    folder: ``out``, or ``runs/`` and the last name of the URL. Return the lock on that, and the
    folder of the checkpoint.

    Args:
        tell: is handed lines about what is done, and about what is not whole.

    Raises:
        ConfigError: the URL is none, or the folder holds something else, or a later checkpoint.
        CheckpointError: there is no whole checkpoint.
    """
    check_url(url, "--resume")

    objects, newest = answered(url, lambda: _look(url))
    run = Path("runs", url.rstrip("/").rpartition("/")[2]) if out is None else Path(out)
    lock = _lock_of(run, url, *newest)
    try:
        tell(f"fetching the newest checkpoint at {url} into {run}")
        store = CheckpointStore(run, keep=0, token=lock.token, check=lock.check)

        def bring() -> Path:
            newest = fetch_newest(objects, store, tell, records=True)
            fetch_best(objects, store, tell)
            return newest

        checkpoint = answered(url, bring, lambda: objects.moved_bytes, GOES_ON_S)
    except BaseException:
        lock.release()
        raise
    return lock, checkpoint


def _look(url: str) -> tuple[Objects, tuple[CheckpointId, Manifest]]:
    objects = Objects(url)
    try:
        return objects, newest_at(objects)
    except Absent as error:
        raise CheckpointError(
            f"no checkpoint at {url}: {error}; expected what was given to --checkpoint-to"
        ) from error


def _lock_of(run: Path, url: str, at: CheckpointId, manifest: Manifest) -> RunLock:
    """Return the lock on a folder that a run may be brought into: one that is not there, or holds
    this run up to that checkpoint, or what an earlier try left."""
    latest = latest_of(run)
    if not (run / CHECKPOINTS).is_dir() or (latest is None and (run / CONFIG).exists()):
        return RunFolder(run).create()
    if latest is not None:
        with suppress(CheckpointError):
            if read_manifest(latest).state.get(RUN) != manifest.state.get(RUN):
                raise ConfigError(
                    f"--out {run} holds another run than {url}; choose another folder"
                )
        own = CheckpointId.of(latest.name)
        if own is not None and own > at:
            raise ConfigError(
                f"{run} holds a later checkpoint, {own.name}, than {url}; go on with it by "
                f"--resume {run}, or choose another folder by --out"
            )
    return RunLock(run)
