"""Writing the checkpoints of one run folder, and which of them are kept."""

from __future__ import annotations

import json
import shutil
from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

from psdp.checkpoint.durable import sync_folder, write_tensors, write_text, writing
from psdp.checkpoint.layout import (
    BEST,
    CHECKPOINTS,
    MANIFEST,
    TEMPORARY,
    complete_checkpoints,
    shard_name,
    step_name,
)
from psdp.checkpoint.manifest import ShardFile, manifest_text, shard_files
from psdp.errors import CheckpointError
from psdp.params import Array


class CheckpointStore:
    """The folder ``checkpoints`` of a run, which all servers must see (one host, or a shared disk).

    Every server calls :meth:`write_shard`, at the same time if it likes; rank 0 collects what
    they return and calls :meth:`commit`. All other methods are rank 0's too, one at a time.
    """

    def __init__(self, run_folder: Path, keep: int) -> None:
        """``keep`` is how many of the latest checkpoints stay beside the best (0: all)."""
        self._root = run_folder / CHECKPOINTS
        self._keep = keep

    def write_shard(
        self, step: int, shard: int, count: int, tensors: Mapping[str, Array]
    ) -> dict[str, Any]:
        """Write one server's shard and return the file's entry for :meth:`commit`.

        ``tensors`` are its weights (S,), its optimizer's vectors (S,) as "optimizer.NAME", and
        whatever counters go with them: float32, float64 or int64, contiguous. They are read where
        they lie, so they must not change until this returns.

        Raises:
            CheckpointError: the file could not be written; what there was of it is removed.
        """
        folder = self._temporary(step)
        path = folder / shard_name(shard, count)
        try:
            with writing(path):
                folder.mkdir(parents=True, exist_ok=True)
                size, sha256 = write_tensors(path, tensors)
        except BaseException:
            with suppress(OSError):
                path.unlink(missing_ok=True)
                folder.rmdir()  # unless another server's shard is in it
            raise
        return asdict(ShardFile(path.name, size, sha256))

    def commit(
        self,
        step: int,
        files: Sequence[Mapping[str, Any]],
        state: Mapping[str, Any],
        spare: Collection[int] = (),
    ) -> Path:
        """Complete the checkpoint of ``step`` from all servers' entries and return its folder.

        ``state`` is anything JSON. Older checkpoints are then pruned, but for the steps in
        ``spare``: one of them may turn out to be the best. A step that is complete
        already stays as it is, and what was written of it again is dropped.

        Raises:
            CheckpointError: a shard is missing or the disk refuses; the temporary folder is
                removed and the older checkpoints are untouched.
        """
        folder, temporary = self._folder(step), self._temporary(step)
        if self.exists(step):
            self.discard(step)
            return folder
        try:
            shards = shard_files(files, temporary)
            for file in shards:
                _check_written(temporary / file.name, file.bytes)
            with writing(folder):
                if folder.exists():  # without a manifest: damaged, and in the way
                    aside = self._root / f"{TEMPORARY}damaged-{folder.name}"
                    folder.rename(aside)
                    shutil.rmtree(aside, ignore_errors=True)
                write_text(temporary / MANIFEST, manifest_text(step, state, shards))
                sync_folder(temporary)
                temporary.rename(folder)
                sync_folder(self._root)
                sync_folder(self._root.parent)
        except BaseException:
            self.discard(step)
            raise
        self._prune({step, *spare})
        return folder

    def exists(self, step: int) -> bool:
        """Say whether the checkpoint of ``step`` is complete."""
        return (self._folder(step) / MANIFEST).is_file()

    def mark_best(self, step: int, spare: Collection[int] = ()) -> None:
        """Record the complete checkpoint of ``step`` as the best, and let go of the one before.

        Raises:
            CheckpointError: there is no such checkpoint, or the disk refuses.
        """
        if not self.exists(step):
            raise CheckpointError(
                f"{self._folder(step)} is not complete and cannot be the best checkpoint; commit "
                f"it first"
            )
        path = self._root / BEST
        temporary = self._root / (TEMPORARY + BEST)
        with writing(path):
            write_text(temporary, json.dumps({"step": step}) + "\n")
            temporary.replace(path)
            sync_folder(self._root)
        self._prune({step, *spare})

    def best(self) -> int | None:
        """Return the step of the best checkpoint, None if none was marked.

        Raises:
            CheckpointError: ``best.json`` is unreadable or damaged.
        """
        path = self._root / BEST
        try:
            content = json.loads(path.read_bytes())
        except FileNotFoundError:
            return None
        except OSError as error:
            raise CheckpointError(f"could not read {path}: {error.strerror}") from error
        except (ValueError, RecursionError) as error:
            raise CheckpointError(f"{path} is damaged: expected JSON, got: {error}") from error
        step = content.get("step") if isinstance(content, dict) else None
        if type(step) is not int:
            raise CheckpointError(f'{path}: expected {{"step": N}}, got {content!r}')
        return step

    def discard(self, step: int) -> None:
        """Remove what was written of a checkpoint that will not be committed, if possible."""
        shutil.rmtree(self._temporary(step), ignore_errors=True)

    def discard_leftovers(self) -> None:
        """Remove what a run that died left half written. Call before any server writes."""
        for leftover in self._root.glob(TEMPORARY + "*"):
            if leftover.is_dir():
                shutil.rmtree(leftover, ignore_errors=True)
            else:
                leftover.unlink(missing_ok=True)

    def _prune(self, spare: Collection[int]) -> None:
        """Remove all but the latest ``keep``, the best, and ``spare``: the step just written, which
        need not be the highest, and those that may yet become the best."""
        if not self._keep:
            return
        complete = complete_checkpoints(self._root)
        kept = {*list(complete)[-self._keep :], self.best(), *spare}
        for step in complete.keys() - kept:
            # Renamed first: a folder that is half removed must not look complete.
            with writing(self._temporary(step)):
                complete[step].rename(self._temporary(step))
            self.discard(step)

    def _folder(self, step: int) -> Path:
        return self._root / step_name(step)

    def _temporary(self, step: int) -> Path:
        return self._root / (TEMPORARY + step_name(step))


def _check_written(path: Path, expected_bytes: int) -> None:
    try:
        size = path.stat().st_size
    except OSError as error:
        raise CheckpointError(
            f"rank 0 cannot see the shard {path}: {error.strerror}; with servers on several hosts "
            f"the run folder (--out) must be on a disk that they share"
        ) from error
    if size != expected_bytes:
        raise CheckpointError(f"{path}: its server wrote {expected_bytes} bytes, found {size}")
