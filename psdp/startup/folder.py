"""The step that makes the run folder, and what its config.json records."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgpack
import numpy as np
import safetensors

import psdp
from psdp.checkpoint import (
    CHECKPOINTS,
    CheckpointId,
    CheckpointStore,
    Manifest,
    complete_checkpoints,
    read_best,
)
from psdp.config import Config
from psdp.job import Job
from psdp.records.folder import RunFolder
from psdp.records.lock import RunLock
from psdp.records.metrics import Best
from psdp.startup.choosing import tell
from psdp.startup.ready import folder_of
from psdp.startup.settings import Location
from psdp.startup.step import Step


@dataclass(frozen=True)
class FolderMade:
    """What rank 0 tells: where the run folder is, and the token of its lock."""

    path: str | None
    token: str | None


@dataclass(frozen=True)
class OpenFolder(Step[RunFolder | None, FolderMade, RunFolder]):
    """Make the run folder on rank 0, with its config.json, or make the folder of a run that goes on
    ready for that. The other ranks learn where it is.

    Args:
        settings: to be recorded.
        lock: rank 0's, of a run that goes on in its own folder.
        locations, kernels: of every rank.
        transport: how vectors go between servers and workers.
        library: that carries the messages.
        more: what config.json is to say of this job alone.
    """

    job: Job
    rank: int
    settings: Mapping[str, Any]
    manifest: Manifest | None
    lock: RunLock | None
    locations: Sequence[Location]
    kernels: Sequence[str | None]
    transport: str
    library: str
    more: Mapping[str, Any]

    facts = FolderMade

    def act(self) -> tuple[RunFolder | None, FolderMade]:
        if self.rank != 0:
            return None, FolderMade(None, None)
        folder = open_folder(self.job.config, self.lock)
        try:
            if self.lock is not None and self.manifest is not None:
                last = CheckpointId.of(self.manifest.folder.resolve().name)
                store = CheckpointStore(folder.path, keep=0)
                lost = store.take_over(last)
                best = Best.from_record(self.manifest.state["best"]).version
                if not mark_best(store, best) and lost is not None:
                    tell(lost)
                folder.mend_metrics()
            folder.write_config(self.config_record(folder))
        except BaseException:
            folder.withdraw()
            raise
        return folder, FolderMade(str(folder.path), folder.token)

    def agree(self, facts: Mapping[int, FolderMade]) -> RunFolder:
        path, token = facts[0].path, facts[0].token
        assert path is not None
        assert token is not None
        return folder_of(self.job, self.rank, Path(path), token)

    def config_record(self, folder: RunFolder) -> dict[str, Any]:
        """Return what config.json says of a run."""
        job = self.job
        return {
            "settings": dict(self.settings) | {"out": str(folder.path)},
            "workers": len(job.workers),
            "servers": len(job.servers),
            **({"standbys": len(job.servers)} if job.stands_by else {}),
            "parameters": job.table.size,
            "hosts": [at.host for at in self.locations],
            "machines": {
                at.host: {
                    "processor": at.processor,
                    "cores": at.cores,
                    "memory_bytes": at.memory_bytes,
                }
                for at in self.locations
            },
            "transport": self.transport,
            "kernels": list(self.kernels),
            "threads": [at.threads for at in self.locations],
            "unit": job.task.unit,
            "units_per_batch": job.task.units_per_batch,
            **job.task.record(),
            **self.more,
            "versions": {
                "psdp": psdp.__version__,
                "python": sys.version.split()[0],
                "numpy": np.__version__,
                "mpi": self.library,
                "msgpack": ".".join(map(str, msgpack.version)),
                "safetensors": safetensors.__version__,
            },
        }


def mark_best(store: CheckpointStore, version: int) -> bool:
    """Have the checkpoint of a version known as the best, if there is one: a run may end before it
    is. Return whether it is now.

    Raises:
        CheckpointError: the disk refuses.
    """
    root = store.run / CHECKPOINTS
    found = next((at for at in complete_checkpoints(root) if at.version == version), None)
    if found is not None and read_best(root) != found:
        store.mark_best(found)
    return found is not None


def open_folder(config: Config, lock: RunLock | None) -> RunFolder:
    """Return the run folder: the one that is locked, or a new one.

    Raises:
        ConfigError: ``--out`` holds something else.
    """
    if lock is not None:
        return RunFolder(lock.folder, lock)
    out = config.run.out
    if out is not None:
        folder = RunFolder(Path(out))
        folder.create()
        return folder
    stem = f"{time.strftime('%Y%m%d-%H%M%S')}-{config.run.mode}"
    for attempt in range(100):
        folder = RunFolder(Path("runs") / (stem if attempt == 0 else f"{stem}-{attempt}"))
        if not folder.path.exists():
            break
    folder.create()
    return folder
