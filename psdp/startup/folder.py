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
from psdp.checkpoint import CheckpointStore, Manifest, find_checkpoint, run_of
from psdp.config import Config
from psdp.errors import ConfigError
from psdp.job import Job
from psdp.records.folder import RunFolder
from psdp.startup.settings import Location
from psdp.startup.step import Step


@dataclass(frozen=True)
class FolderMade:
    """What rank 0 tells: where the run folder is."""

    path: str | None


@dataclass(frozen=True)
class OpenFolder(Step[RunFolder | None, FolderMade, Path]):
    """Make the run folder on rank 0, with its config.json.

    Args:
        settings: to be recorded.
        locations, kernels: of every rank.
        transport: how vectors go between servers and workers.
        library: that carries the messages.
    """

    job: Job
    rank: int
    settings: Mapping[str, Any]
    manifest: Manifest | None
    locations: Sequence[Location]
    kernels: Sequence[str]
    transport: str
    library: str

    facts = FolderMade

    def act(self) -> tuple[RunFolder | None, FolderMade]:
        if self.rank != 0:
            return None, FolderMade(None)
        run = self.job.config.run
        folder = open_folder(self.job.config, self.manifest)
        try:
            CheckpointStore(folder.path, run.keep_checkpoints).discard_leftovers()
            folder.write_config(self.config_record(folder))
        except BaseException:
            folder.withdraw()
            raise
        return folder, FolderMade(str(folder.path))

    def agree(self, facts: Sequence[FolderMade]) -> Path:
        assert facts[0].path is not None
        return Path(facts[0].path)

    def config_record(self, folder: RunFolder) -> dict[str, Any]:
        """Return what config.json says of a run."""
        job = self.job
        return {
            "settings": dict(self.settings) | {"out": str(folder.path)},
            "workers": len(job.workers),
            "servers": len(job.servers),
            "parameters": job.table.size,
            "hosts": [at.host for at in self.locations],
            "transport": self.transport,
            "kernels": list(self.kernels),
            "threads": [at.threads for at in self.locations],
            "unit": job.task.unit,
            "units_per_batch": job.task.units_per_batch,
            **job.task.record(),
            "versions": {
                "psdp": psdp.__version__,
                "python": sys.version.split()[0],
                "numpy": np.__version__,
                "mpi": self.library,
                "msgpack": ".".join(map(str, msgpack.version)),
                "safetensors": safetensors.__version__,
            },
        }


def open_folder(config: Config, manifest: Manifest | None) -> RunFolder:
    """Return the run folder: a new one, or on a resume from its latest checkpoint the same one.

    Raises:
        ConfigError: ``--out`` holds something else.
    """
    out = config.run.out
    run = None if manifest is None else run_of(manifest.folder)
    if manifest is not None and run is not None:
        in_place = out is None or Path(out).resolve() == run.resolve()
        if in_place and find_checkpoint(run).resolve() == manifest.folder.resolve():
            return RunFolder(run)
        if in_place and out is not None:
            raise ConfigError(
                f"--out {out} holds checkpoints later than {manifest.folder.name}, which going on "
                "from there would overwrite; choose another folder"
            )
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
