"""The copies of a shard that are still needed: to evaluate on, to write, or both.

Every server copies at the same versions: where a checkpoint or an evaluation is due, and where
rank 0 asks for it. A copy that is *held* stays until rank 0 releases it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from psdp.checkpoint import CheckpointId, Snapshot
from psdp.job import Job


def checkpoint_of(job: Job, snapshot: Snapshot) -> CheckpointId:
    """Return in which checkpoint a copy is saved."""
    return CheckpointId(job.step_of(snapshot.units), snapshot.version)


@dataclass
class _Kept:
    snapshot: Snapshot
    held: bool
    writing: bool = False
    written: bool = False


class Snapshots:
    """Copies by their version.

    Args:
        take: returns a copy of the shard as it is.
        write: starts writing a copy.
        recycle: takes back a copy that nobody needs.
        held: copies that were there before.
    """

    def __init__(
        self,
        take: Callable[[], Snapshot],
        write: Callable[[Snapshot], None],
        recycle: Callable[[Snapshot], None],
        held: Sequence[Snapshot] = (),
    ) -> None:
        self._take = take
        self._write = write
        self._recycle = recycle
        self._kept = {copy.version: _Kept(copy, held=True) for copy in held}
        self._gone: set[int] = set()

    def get(self, version: int) -> Snapshot | None:
        kept = self._kept.get(version)
        return kept.snapshot if kept else None

    def is_gone(self, version: int) -> bool:
        """Say whether there was a copy that nobody needs any more."""
        return version in self._gone

    def held(self) -> list[Snapshot]:
        """Return the copies that rank 0 has not released."""
        return [kept.snapshot for kept in self._kept.values() if kept.held]

    def idle(self) -> bool:
        """Say whether nothing is held or being written."""
        return not self._kept

    def keep(self, version: int, *, hold: bool, save: bool) -> None:
        """Copy the shard now, unless that version is kept already."""
        if version not in self._kept:
            self._kept[version] = _Kept(self._take(), held=False)
        kept = self._kept[version]
        kept.held |= hold
        if save:
            self._save(kept)
        self._settle(version)

    def save(self, version: int) -> None:
        """Write a copy that is held, unless that is done."""
        kept = self._kept.get(version)
        if kept is not None:  # else it was let go in the term before
            self._save(kept)

    def release(self, version: int) -> None:
        """Rank 0 needs a copy no more."""
        kept = self._kept.get(version)
        if kept is not None:  # likewise
            kept.held = False
            self._settle(version)

    def written(self, version: int) -> None:
        """The file of this copy is on disk."""
        kept = self._kept[version]
        kept.writing, kept.written = False, True
        self._settle(version)

    def _save(self, kept: _Kept) -> None:
        if not kept.writing and not kept.written:
            kept.writing = True
            self._write(kept.snapshot)

    def _settle(self, version: int) -> None:
        kept = self._kept.get(version)
        if kept and not kept.held and not kept.writing:
            self._recycle(self._kept.pop(version).snapshot)
            self._gone.add(version)
