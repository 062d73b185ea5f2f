"""A run as it lies on the disk, to go on from."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from psdp.checkpoint import CheckpointId, CheckpointStore, Manifest, read_manifest
from psdp.config import Config
from psdp.data.corpus import load_corpus
from psdp.job import Job
from psdp.language import Language
from psdp.records.metrics import Best
from psdp.startup.resume import identity_of

SMALL: dict[str, Any] = {"n_layer": 1, "n_head": 1, "n_embd": 4, "block_size": 8}


class SavedRun:
    """A run in ``folder`` with a checkpoint at each of ``steps``, as rank 0 would leave it."""

    def __init__(self, folder: Path, steps: tuple[int, ...] = (10,), **given: Any) -> None:
        text = folder.parent / "corpus.txt"
        text.parent.mkdir(parents=True, exist_ok=True)
        text.write_text("the quick brown fox jumps over the lazy dog\n" * 20)
        self.folder = folder
        self.given = SMALL | {"corpus": [str(text)], "out": str(folder)} | given
        self.config = Config.from_flat(self.given).resolved()
        self.corpus = load_corpus(self.config.data)
        self.job = self.job_of(3)
        self.best = Best()
        for step in steps:
            self.save(step)

    def job_of(self, world_size: int, **changes: Any) -> Job:
        config = Config.from_flat(self.given | changes).resolved()
        return Job(config, world_size, Language.of(config, self.corpus))

    def save(self, step: int, identity: dict[str, Any] | None = None) -> None:
        store = CheckpointStore(self.folder, keep=0)
        weights = self.job.table.initial(1, "float32")
        file = store.write_shard(CheckpointId(step, step), 0, 1, {"weights": weights})
        identity = identity or identity_of(self.job, self.config.flat())
        progress: dict[str, Any] = {"version": step, "tokens": step * self.job.units_per_step}
        progress["best"] = self.best.record()
        store.commit(CheckpointId(step, step), [file], identity | progress)

    def checkpoint(self, step: int) -> Path:
        return self.folder / "checkpoints" / f"step-{step:06d}-v{step:06d}"

    def manifest(self, step: int = 10) -> Manifest:
        return read_manifest(self.checkpoint(step))
