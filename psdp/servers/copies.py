"""Copies of evaluated versions, which all that hold a shard keep until the disk has them: whoever
leads the next term can save them again."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from psdp.checkpoint import CHECKPOINTS, CheckpointId, CheckpointStore, Snapshot, read_best
from psdp.job import Job
from psdp.servers.serving import Serving
from psdp.servers.snapshots import checkpoint_of
from psdp.transport import messages as m


@dataclass(frozen=True)
class Marked:
    """The checkpoint of a version is known as the best."""

    version: int


class Copies:
    """Has versions saved of which all hold a copy, and let go of them when that is done.

    Args:
        serving: of the rank that leads, whose writer this uses.
        decide: has all servers do something after what was decided before.

    Attributes:
        paths: of the versions whose checkpoints are complete.
    """

    def __init__(
        self,
        job: Job,
        serving: Serving,
        store: CheckpointStore,
        decide: Callable[[m.Message, m.Message], object],
    ) -> None:
        self.paths: dict[int, Path] = {}
        self._job = job
        self._serving = serving
        self._store = store
        self._decide = decide
        self._wanted: set[int] = set()
        """Versions that are to be complete, and marked if they are the best, before their copies
        are let go of."""
        self._best: int | None = None
        """The best of those that this leader knows of."""

    def is_marked(self, snapshot: Snapshot) -> bool:
        """Say whether the disk knows the checkpoint of a copy as the best; only then may others
        have let go of it."""
        best = read_best(self._store.run / CHECKPOINTS)
        return best == checkpoint_of(self._job, snapshot)

    @property
    def is_marking(self) -> bool:
        """Whether the best is complete, and not yet known as that."""
        return self._best in self._wanted and self._best in self.paths

    def save(self, version: int, *, best: bool) -> None:
        """Save a version of which all hold a copy, as the best if it is that; then let go of it."""
        if best:
            self._best = version
        self._wanted.add(version)
        self._decide(m.SaveSnapshot(version), m.SaveSnapshot(version))
        self._go_on(version)

    def completed(self, version: int, path: Path) -> None:
        """The checkpoint of a version is complete."""
        self.paths[version] = path
        self._go_on(version)

    def let_go(self, version: int) -> None:
        """The copies of a version are not needed any more."""
        self._wanted.discard(version)
        self._decide(m.DropSnapshot(version), m.DropSnapshot(version))

    def spare(self) -> list[CheckpointId]:
        """Return what no commit may prune: the best may be marked only after it."""
        return [checkpoint_of(self._job, copy) for copy in self._serving.giving.snapshots.held()]

    def _go_on(self, version: int) -> None:
        if version not in self._wanted or version not in self.paths:
            return
        if version != self._best:
            self.let_go(version)
            return
        at, spare = CheckpointId.of(self.paths[version].name), self.spare()
        assert at is not None

        def mark() -> Marked:
            self._store.mark_best(at, spare)
            return Marked(version)

        self._serving.giving.writer.submit(mark)
