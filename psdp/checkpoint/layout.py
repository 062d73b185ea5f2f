"""The names of files and folders in a run folder. Whatever spells one imports it from here."""

from __future__ import annotations

import re
from pathlib import Path
from typing import NamedTuple

CHECKPOINTS = "checkpoints"
MANIFEST = "checkpoint.json"
BEST = "best.json"
TEMPORARY = ".tmp-"
DAMAGED = "damaged-"
RECORDS = "records.json"
PIECES = "records"

WEIGHTS, AVERAGE = "weights", "ema"
"""The tensors of the weights, and of their average where a run keeps one (``--ema``)."""

ATTACHED = "attached"
"""Of what a checkpoint says of its job, under what name texts stand that become files of their
own in it, by their names."""

_NAME = re.compile(r"step-(\d{6,})(?:-v(\d{6,}))?")
_UNNAMED = -1


class CheckpointId(NamedTuple):
    """Which checkpoint of a run: the steps that were whole by then, and the version. Later ones
    compare as larger.

    In asynchronous modes several versions share a step. Folders of before psdp 0.2 do not name
    the version; of a step they compare as the first.
    """

    step: int
    version: int = _UNNAMED

    @property
    def name(self) -> str:
        """The name of its folder."""
        version = "" if self.version == _UNNAMED else f"-v{self.version:06d}"
        return f"step-{self.step:06d}{version}"

    @classmethod
    def of(cls, name: str) -> CheckpointId | None:
        """Return whose folder is called so, None if that is the name of none."""
        match = _NAME.fullmatch(name)
        if match is None:
            return None
        return cls(int(match[1]), _UNNAMED if match[2] is None else int(match[2]))


def shard_name(shard: int, count: int) -> str:
    """Return the name of the file of server ``shard`` out of ``count``."""
    return f"shard-{shard:02d}-of-{count:02d}.safetensors"


def worker_name(worker: int) -> str:
    """Return the name of the file of a worker."""
    return f"worker-{worker:04d}.safetensors"


def checkpoint_folders(root: Path) -> dict[CheckpointId, Path]:
    """Return the folders under ``root`` that are called as checkpoints are, in rising order."""
    found = {
        named: folder
        for folder in root.glob("step-*")
        if (named := CheckpointId.of(folder.name)) is not None
    }
    return dict(sorted(found.items()))


def complete_checkpoints(root: Path) -> dict[CheckpointId, Path]:
    """Return those of these folders that hold a manifest, in rising order."""
    folders = checkpoint_folders(root)
    return {at: folder for at, folder in folders.items() if (folder / MANIFEST).is_file()}
