"""The names of files and folders in a run folder. Whatever spells one imports it from here."""

from __future__ import annotations

import re
from pathlib import Path

CHECKPOINTS = "checkpoints"
MANIFEST = "checkpoint.json"
BEST = "best.json"
TEMPORARY = ".tmp-"

_STEP = re.compile(r"step-(\d{6,})")


def step_name(step: int) -> str:
    """Return the name of the folder of one checkpoint."""
    return f"step-{step:06d}"


def shard_name(shard: int, count: int) -> str:
    """Return the name of the file of server ``shard`` out of ``count``."""
    return f"shard-{shard:02d}-of-{count:02d}.safetensors"


def complete_checkpoints(root: Path) -> dict[int, Path]:
    """Map the step of each complete checkpoint under ``root`` to its folder, in rising order."""
    found = {
        int(match[1]): folder
        for folder in root.glob("step-*")
        if (match := _STEP.fullmatch(folder.name)) and (folder / MANIFEST).is_file()
    }
    return dict(sorted(found.items()))
