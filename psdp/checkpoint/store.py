"""Writing the checkpoints of one run folder, and which of them are kept."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

from psdp.checkpoint.durable import sync_folder, write_tensors, write_text, writing
from psdp.checkpoint.layout import (
    ATTACHED,
    BEST,
    CHECKPOINTS,
    DAMAGED,
    MANIFEST,
    TEMPORARY,
    CheckpointId,
    checkpoint_folders,
    complete_checkpoints,
    shard_name,
    worker_name,
)
from psdp.checkpoint.manifest import CheckpointFile, manifest_text, shard_files, worker_files
from psdp.checkpoint.read import best_text, is_checkpoint, read_best
from psdp.errors import CheckpointError
from psdp.params import Array

_ON_A_SHARED_DISK = (
    "; with ranks on several hosts the run folder (--out) must be on a disk that they share"
)


def _nobody_else() -> None:
    pass


class CheckpointStore:
    """The folder ``checkpoints`` of a run, which all servers must see (one host, or a shared disk),
    and all ranks whose workers keep something for themselves.

    Every server calls :meth:`write_shard`, and every such rank :meth:`write_worker`, at the same
    time if they like; rank 0 collects what they return and calls :meth:`commit`. All other methods
    are rank 0's too, one at a time.

    Args:
        keep: how many of the latest checkpoints stay beside the best (0: all).
        token: of the job that holds the run folder, equal on all its servers. It is in the names of
            what is not complete, so what another job that woke up late writes mixes with nothing.
        check: raises CheckpointError if another job holds the run folder now; rank 0's.
    """

    def __init__(
        self,
        run: Path,
        keep: int,
        token: str = "",
        check: Callable[[], None] = _nobody_else,
    ) -> None:
        self.run = run
        self._root = run / CHECKPOINTS
        self._keep = keep
        self._token = token
        self._prefix = f"{TEMPORARY}{token}-" if token else TEMPORARY
        self._check = check

    def of_term(self, number: int) -> CheckpointStore:
        """Return the same for a term of the run: what another one has left half written mixes with
        nothing of it."""
        token = f"{self._token}-{number}" if number else self._token
        return CheckpointStore(self.run, self._keep, token, self._check)

    def write_shard(
        self, at: CheckpointId, shard: int, count: int, tensors: Mapping[str, Array]
    ) -> dict[str, Any]:
        """Write one server's shard and return the file's entry for :meth:`commit`.

        ``tensors`` are its weights (S,), its optimizer's vectors (S,) as "optimizer.NAME", and
        whatever counters go with them: float32, float64 or int64, contiguous. They are read where
        they lie, so they must not change until this returns.

        Raises:
            CheckpointError: the file could not be written; what there was of it is removed.
            NumericsError: a vector holds NaN or Inf; likewise.
        """
        return self._write(at, shard_name(shard, count), tensors, alone=count == 1)

    def write_worker(
        self, at: CheckpointId, worker: int, tensors: Mapping[str, Array]
    ) -> dict[str, Any]:
        """Write what a worker has for itself and return the file's entry for :meth:`commit`; the
        tensors are as those of :meth:`write_shard`.

        Raises:
            CheckpointError: the file could not be written, or this host does not see the run's
                folder; what there was of it is removed.
            NumericsError: a vector holds NaN or Inf; likewise.
        """
        if not self.run.is_dir():  # or a folder would be made that nobody else sees
            raise CheckpointError(f"there is no {self.run}{_ON_A_SHARED_DISK}")
        return self._write(at, worker_name(worker), tensors)

    def _write(
        self, at: CheckpointId, name: str, tensors: Mapping[str, Array], *, alone: bool = False
    ) -> dict[str, Any]:
        """Write a file of a checkpoint; ``alone``: no other server writes into its folder."""
        folder = self._temporary(at)
        path = folder / name
        try:
            with writing(path):
                folder.mkdir(parents=True, exist_ok=True)
                size, sha256 = write_tensors(path, tensors)
        except BaseException:
            with suppress(OSError):
                path.unlink(missing_ok=True)
                if alone:
                    folder.rmdir()
            raise
        return asdict(CheckpointFile(path.name, size, sha256))

    def commit(
        self,
        at: CheckpointId,
        files: Sequence[Mapping[str, Any]],
        state: Mapping[str, Any],
        spare: Collection[CheckpointId] = (),
        workers: Mapping[int, Mapping[str, Any] | None] | None = None,
    ) -> Path:
        """Complete a checkpoint from all servers' entries and return its folder.

        ``state`` is anything JSON; texts that stand in it under "attached" become files beside it,
        by their names. ``workers`` are the entries of workers, None of one that the
        checkpoint does without. Older checkpoints are then pruned, but for those in ``spare``: one
        of them may turn out to be the best. One that is complete already stays as it is, and what
        was written of it again is dropped.

        Raises:
            CheckpointError: a file is missing, the disk refuses, or another job holds the run
                folder; the temporary folder is removed and the older checkpoints are untouched.
        """
        folder, temporary = self._folder(at), self._temporary(at)
        if self.exists(at):
            self.discard(at)
            return folder
        try:
            shards, own = shard_files(files, temporary), worker_files(workers or {}, temporary)
            for file in (*shards, *filter(None, own.values())):
                _check_written(temporary / file.name, file.bytes)
            with writing(folder):
                told, attached = _attach(state, temporary)
                text = manifest_text(at.step, told, shards, own, attached)
                write_text(temporary / MANIFEST, text)
                self._put_in_place(at)
        except BaseException:
            self.discard(at)
            raise
        self._prune({at, *spare})
        return folder

    def why_unseen(self, at: CheckpointId, entry: Mapping[str, Any]) -> str | None:
        """Return why rank 0 cannot take a file that was written elsewhere; None if it can."""
        try:
            _check_written(self._temporary(at) / entry["name"], entry["bytes"])
        except CheckpointError as error:
            return str(error)
        return None

    def take_in(self, at: CheckpointId, fill: Callable[[Path], None]) -> Path:
        """Complete a checkpoint that was written elsewhere, and return its folder. ``fill(folder)``
        puts all its files there, on the disk and verified.

        Raises:
            CheckpointError: the disk refuses, or ``fill`` does.
        """
        temporary = self._temporary(at)
        try:
            with writing(temporary):
                temporary.mkdir(parents=True)
                fill(temporary)
                self._put_in_place(at)
        except BaseException:
            self.discard(at)
            raise
        return self._folder(at)

    def _put_in_place(self, at: CheckpointId) -> None:
        """Give what is whole its name."""
        folder, temporary = self._folder(at), self._temporary(at)
        sync_folder(temporary)
        self._check()
        if folder.exists():  # damaged, and in the way
            self._set_aside(folder)
        temporary.rename(folder)
        sync_folder(self._root)
        sync_folder(self._root.parent)

    def exists(self, at: CheckpointId) -> bool:
        """Say whether a checkpoint is complete."""
        return is_checkpoint(self._folder(at))

    def mark_best(self, at: CheckpointId, spare: Collection[CheckpointId] = ()) -> None:
        """Record a complete checkpoint as the best, and let go of the one before.

        Raises:
            CheckpointError: there is no such checkpoint, the disk refuses, or another job holds
                the run folder.
        """
        if not self.exists(at):
            raise CheckpointError(
                f"{self._folder(at)} is not complete and cannot be the best checkpoint; commit "
                f"it first"
            )
        path = self._root / BEST
        temporary = self._root / (self._prefix + BEST)
        with writing(path):
            write_text(temporary, best_text(at))
            self._check()
            temporary.replace(path)
            sync_folder(self._root)
        self._prune({at, *spare})

    def discard(self, at: CheckpointId) -> None:
        """Remove what was written of a checkpoint that will not be committed, if possible."""
        shutil.rmtree(self._temporary(at), ignore_errors=True)

    def take_over(self, last: CheckpointId | None = None) -> str | None:
        """Clear away what earlier jobs left that would be in the way of one that goes on from the
        checkpoint ``last``; return why none is known as the best any more, if one was. Call before
        any server writes.

        What is half written is removed. Later checkpoints, which are damaged, are renamed, and so
        is a best.json that is damaged or means one of these: they begin with "damaged-" then.

        Raises:
            CheckpointError: the disk refuses.
        """
        with writing(self._root):
            for leftover in self._root.glob(TEMPORARY + "*"):
                if leftover.is_dir():
                    shutil.rmtree(leftover, ignore_errors=True)
                else:
                    leftover.unlink(missing_ok=True)
            for at, folder in checkpoint_folders(self._root).items():
                if last is not None and at > last:
                    self._set_aside(folder)
            lost = self._why_no_best()
            if lost is not None:
                self._set_aside(self._root / BEST)
        return lost

    def _why_no_best(self) -> str | None:
        try:
            best = read_best(self._root)
        except CheckpointError as error:
            return f"{error}; which checkpoint was the best is not known any more"
        if best is None or self.exists(best):
            return None
        return f"{self._folder(best)} was the best checkpoint, and is not whole any more"

    def _set_aside(self, damaged: Path) -> None:
        """Rename what is damaged, so that it is in nobody's way and nothing is lost."""
        aside, number = self._root / f"{DAMAGED}{damaged.name}", 1
        while aside.exists():
            number += 1
            aside = self._root / f"{DAMAGED}{number}-{damaged.name}"
        damaged.rename(aside)

    def _prune(self, spare: Collection[CheckpointId]) -> None:
        """Remove all but the latest ``keep``, the best, and ``spare``: the one just written, which
        need not be the latest, and those that may yet become the best."""
        if not self._keep:
            return
        complete = complete_checkpoints(self._root)
        kept = {*list(complete)[-self._keep :], read_best(self._root), *spare}
        self._check()
        for at in complete.keys() - kept:
            # Renamed first: a folder that is half removed must not look complete.
            with writing(self._temporary(at)):
                complete[at].rename(self._temporary(at))
            self.discard(at)

    def _folder(self, at: CheckpointId) -> Path:
        return self._root / at.name

    def _temporary(self, at: CheckpointId) -> Path:
        return self._root / (self._prefix + at.name)


def _check_written(path: Path, expected_bytes: int) -> None:
    try:
        size = path.stat().st_size
    except OSError as error:
        raise CheckpointError(
            f"rank 0 cannot see {path}: {error.strerror}{_ON_A_SHARED_DISK}"
        ) from error
    if size != expected_bytes:
        raise CheckpointError(f"{path}: its rank wrote {expected_bytes} bytes, found {size}")


def _attach(
    state: Mapping[str, Any], folder: Path
) -> tuple[Mapping[str, Any], list[CheckpointFile]]:
    """Write the texts in a state into files of their own; return the state without, and these."""
    files = []
    for name, text in state.get(ATTACHED, {}).items():
        raw = text.encode("utf-8")
        write_text(folder / name, text)
        files.append(CheckpointFile(name, len(raw), hashlib.sha256(raw).hexdigest()))
    return {key: value for key, value in state.items() if key != ATTACHED}, files
