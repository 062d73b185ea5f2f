"""Completing checkpoints on rank 0: collect every server's file, commit, mark the best."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from psdp.checkpoint import BackgroundWriter, CheckpointStore


@dataclass(frozen=True)
class Committed:
    """The checkpoint of a version is complete on disk."""

    version: int
    path: Path


class Commits:
    """Checkpoints under way, by version. The disk is touched by the writer's thread alone.

    Args:
        held: returns the steps that are being evaluated; theirs are not pruned, since one of them
            may turn out to be the best.
    """

    def __init__(
        self,
        servers: int,
        store: CheckpointStore,
        writer: BackgroundWriter[Any],
        held: Callable[[], Iterable[int]],
    ) -> None:
        self._servers = servers
        self._store = store
        self._writer = writer
        self._held = held
        self._steps: dict[int, int] = {}
        self._states: dict[int, dict[str, Any]] = {}
        self._files: defaultdict[int, list[dict[str, Any]]] = defaultdict(list)
        self._best: tuple[int, int] | None = None
        self.paths: dict[int, Path] = {}
        """Of the versions that are complete."""

    def idle(self) -> bool:
        return not self._states and not self._writer.busy

    def begin(self, version: int, step: int, state: dict[str, Any]) -> None:
        """Expect every server's file for this version; ``state`` goes into its manifest."""
        self._steps[version], self._states[version] = step, state

    def collect(self, version: int, file: dict[str, Any]) -> None:
        """Take one server's file; commit with the last one."""
        files = self._files[version]
        files.append(file)
        if version in self._states and len(files) == self._servers:
            step, state, spare = self._steps[version], self._states[version], self._spare()
            self._writer.submit(
                lambda: Committed(version, self._store.commit(step, files, state, spare))
            )

    def committed(self, result: Committed) -> None:
        """Take the writer's word that a checkpoint is complete."""
        self.paths[result.version] = result.path
        del self._states[result.version], self._files[result.version]
        self._mark(result.version)

    def mark_best(self, version: int, step: int) -> None:
        """Keep this version's checkpoint as the best, once it is complete."""
        self._best = version, step
        self._mark(version)

    def _mark(self, version: int) -> None:
        if self._best is not None and version == self._best[0] and version in self.paths:
            step, spare = self._best[1], self._spare()
            self._writer.submit(lambda: self._store.mark_best(step, spare))

    def _spare(self) -> list[int]:
        """Return the steps that no commit may prune: the best may be marked only after it."""
        return [*self._held(), *([] if self._best is None else [self._best[1]])]
