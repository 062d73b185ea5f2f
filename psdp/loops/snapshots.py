"""The copies of a shard that are still needed: to evaluate on, to write, or both.

Every server copies at the same versions: where a checkpoint or an evaluation is due, and where
rank 0 asks for it. A copy that is *held* stays until rank 0 releases it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from psdp.shard import Snapshot


@dataclass
class _Kept:
    snapshot: Snapshot
    held: bool
    writing: bool = False
    written: bool = False


class Snapshots:
    """Copies by the version they were asked for.

    In async and ssp, shards pass a version with different gradients in; a copy that rank 0 asked
    for too late for this shard is of a later version than its key.

    Args:
        take: returns a copy of the shard as it is.
        write: starts writing a copy, by its key.
        recycle: takes back a copy that nobody needs.
    """

    def __init__(
        self,
        take: Callable[[], Snapshot],
        write: Callable[[int, Snapshot], None],
        recycle: Callable[[Snapshot], None],
    ) -> None:
        self._take = take
        self._write = write
        self._recycle = recycle
        self._kept: dict[int, _Kept] = {}
        self._wanted: set[int] = set()
        self._released: dict[int, bool] = {}

    def get(self, key: int) -> Snapshot | None:
        kept = self._kept.get(key)
        return kept.snapshot if kept else None

    def held(self) -> list[int]:
        """Return the keys that rank 0 has not released."""
        return [key for key, kept in self._kept.items() if kept.held]

    def idle(self) -> bool:
        """Say whether nothing is held, wanted or being written."""
        return not self._kept and not self._wanted

    def keep(self, key: int, *, hold: bool, save: bool) -> None:
        """Copy the shard now, unless that version is kept already."""
        if key not in self._kept:
            self._kept[key] = _Kept(self._take(), held=False)
        kept = self._kept[key]
        kept.held |= hold
        if save:
            self._save(key, kept)
        if key in self._released:
            self.release(key, save=self._released.pop(key))
        self._settle(key)

    def want(self, key: int, version: int) -> None:
        """Copy and hold the shard as soon as it reaches a version; it is at ``version`` now."""
        self._wanted.add(key)
        self.reached(version)

    def reached(self, version: int) -> None:
        """The shard is at this version now: take the copies that were wanted up to here."""
        for key in sorted(key for key in self._wanted if key <= version):
            self._wanted.remove(key)
            self.keep(key, hold=True, save=False)

    def release(self, key: int, *, save: bool) -> None:
        """Rank 0 needs a copy no more; write it first if ``save``."""
        kept = self._kept.get(key)
        if kept is None:
            self._released[key] = save
            return
        kept.held = False
        if save:
            self._save(key, kept)
        self._settle(key)

    def written(self, key: int) -> None:
        """The file of this copy is on disk."""
        kept = self._kept[key]
        kept.writing, kept.written = False, True
        self._settle(key)

    def _save(self, key: int, kept: _Kept) -> None:
        if not kept.writing and not kept.written:
            kept.writing = True
            self._write(key, kept.snapshot)

    def _settle(self, key: int) -> None:
        kept = self._kept.get(key)
        if kept and not kept.held and not kept.writing:
            self._recycle(self._kept.pop(key).snapshot)
