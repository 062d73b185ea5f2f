"""The step that chooses the checkpoint to go on from: rank 0 does, for all."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from psdp.checkpoint import find_checkpoint, is_checkpoint, latest_of, run_of
from psdp.config import is_url
from psdp.errors import ConfigError
from psdp.records.lock import RunLock
from psdp.startup.elsewhere import bring_run
from psdp.startup.step import Step


@dataclass(frozen=True)
class Chosen:
    """What rank 0 tells: the folder of the checkpoint, if the run goes on from one."""

    checkpoint: str | None


@dataclass(frozen=True)
class ChooseCheckpoint(Step[RunLock | None, Chosen, Path | None]):
    """Choose on rank 0 what ``--resume`` goes on from: the checkpoint that it names, or of the run
    that it names the latest that is whole, which is brought here if that is a URL. A run that goes
    on in its own folder is locked before; the lock is rank 0's.

    Args:
        given: settings of this rank's command line.
    """

    rank: int
    given: Mapping[str, Any]

    facts = Chosen

    def act(self) -> tuple[RunLock | None, Chosen]:
        lock: RunLock | None
        resume, out = self.given.get("resume"), self.given.get("out")
        if self.rank != 0 or resume is None:
            return None, Chosen(None)
        if is_url(resume):
            lock, checkpoint = bring_run(resume, out, tell)
            return lock, Chosen(str(checkpoint))
        lock = lock_of(Path(resume), None if out is None else Path(out))
        try:
            return lock, Chosen(str(find_checkpoint(Path(resume), tell)))
        except BaseException:
            if lock is not None:
                lock.release()
            raise

    def agree(self, facts: Mapping[int, Chosen]) -> Path | None:
        chosen = facts[0].checkpoint
        return None if chosen is None else Path(chosen)


def lock_of(resume: Path, out: Path | None) -> RunLock | None:
    """Return the lock on the run that ``resume`` is, or lies in, if it goes on in its own folder:
    not in another, ``out``, and not from before its latest checkpoint.

    Raises:
        ConfigError: ``out`` is that folder, and it holds later checkpoints.
        CheckpointError: another job holds the folder.
    """
    run = run_of(resume) if is_checkpoint(resume) else resume
    if run is None or latest_of(run) is None:
        return None
    if out is not None and out.resolve() != run.resolve():
        return None
    if out is None and _has_later(run, resume):
        return None
    lock = RunLock(run)
    if _has_later(run, resume):
        lock.release()
        raise ConfigError(
            f"{run} holds checkpoints later than {resume.name}, which going on from there would "
            "overwrite; choose another folder by --out"
        )
    return lock


def _has_later(run: Path, resume: Path) -> bool:
    """Say whether ``resume`` is a checkpoint of the run, and not its latest."""
    latest = latest_of(run)
    return is_checkpoint(resume) and latest is not None and latest.resolve() != resume.resolve()


def tell(text: str) -> None:
    """Print a line, however quiet the run is to be."""
    print(f"psdp: {text}", file=sys.stderr, flush=True)
