"""One server's files of checkpoints, as its writer's thread makes them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from psdp.checkpoint import CheckpointId, CheckpointStore
from psdp.errors import NumericsError
from psdp.params import Array


@dataclass(frozen=True)
class Saved:
    """This shard's file of the checkpoint of a version is on disk."""

    version: int
    file: dict[str, Any]


@dataclass(frozen=True)
class Refused:
    """This shard of a version is not saved, since it holds NaN or Inf; ``why`` says where."""

    version: int
    why: str


class Saving:
    """Saves a shard.

    Args:
        shard, count: its number, and that of all.
    """

    def __init__(self, store: CheckpointStore, shard: int, count: int) -> None:
        self._store = store
        self._shard = shard
        self._count = count
        self._latest: Saved | None = None

    def save(self, at: CheckpointId, tensors: Mapping[str, Array]) -> Saved | Refused:
        """Write a version's file, and return what came of it.

        The latest version may be asked for again, when a run ends early. Its file is not touched
        then: rank 0 may be about to commit it.
        """
        latest = self._latest
        if latest is not None and latest.version == at.version:
            return latest
        try:
            file = self._store.write_shard(at, self._shard, self._count, tensors)
        except NumericsError as error:
            return Refused(at.version, str(error))
        saved = Saved(at.version, file)
        if latest is None or latest.version < at.version:
            self._latest = saved
        return saved
