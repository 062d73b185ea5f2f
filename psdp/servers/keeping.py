"""Completing checkpoints on rank 0: collect every server's file, commit, mark the best."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from psdp.checkpoint import CheckpointStore, Snapshot
from psdp.job import Job
from psdp.records.metrics import Best
from psdp.servers.serving import TICK_S, Saved, Serving
from psdp.transport import Arrival
from psdp.transport import messages as m


@dataclass(frozen=True)
class Committed:
    """The checkpoint of a version is complete on disk."""

    version: int
    path: Path


class Keeping:
    """Checkpoints under way, by version. The disk is touched by the writer's thread alone.

    Args:
        serving: of rank 0, whose writer this uses. Steps that are being evaluated are not pruned,
            since one of them may turn out to be the best.
        identity: what a checkpoint says of the job beside its progress (settings, tokenizer, ...).
        best: the best evaluation so far.

    Attributes:
        paths: of the versions that are complete.
    """

    def __init__(
        self,
        job: Job,
        serving: Serving,
        store: CheckpointStore,
        identity: Mapping[str, Any],
        best: Best,
    ) -> None:
        self.paths: dict[int, Path] = {}
        self._job = job
        self._serving = serving
        self._store = store
        self._identity = dict(identity)
        self._best = best
        self._begun: dict[int, tuple[int, dict[str, Any]]] = {}
        """Of versions that are being saved: the step, and what the checkpoint says of it."""
        self._files: defaultdict[int, dict[str, dict[str, Any]]] = defaultdict(dict)
        """By their names."""
        self._marked: tuple[int, int] | None = None
        serving.before_writing = self.begin

    def idle(self) -> bool:
        """Say whether nothing is being written, or waits to be."""
        return not self._begun and not self._serving.writer.busy

    def begin(self, snapshot: Snapshot) -> None:
        """Expect every server's file of this version."""
        version = snapshot.version
        state = self._identity | {
            "version": version,
            self._job.units_name: snapshot.units,
            "clocks": {str(rank): clock for rank, clock in snapshot.clocks.items()},
            "best": self._best.record(),
        }
        self._begun[version] = self._job.step_of(snapshot.units), state

    def written(self, result: Saved | Committed | None) -> None:
        """Take what the writer has finished."""
        match result:
            case Saved(version, file):
                self._collect(version, file)
                self._serving.snapshots.written(version)
            case Committed(version, path):
                self.paths[version] = path
                del self._begun[version], self._files[version]
                self._mark(version)

    def saved(self, message: m.ShardSaved) -> None:
        """Take another server's word that its file is on disk."""
        name, size, sha256 = message.name, message.file_bytes, message.sha256
        self._collect(message.version, {"name": name, "bytes": size, "sha256": sha256})

    def _collect(self, version: int, file: dict[str, Any]) -> None:
        """Take one server's file; commit with the last one."""
        files = self._files[version]
        if file["name"] in files:
            return  # a server that had written it was asked to save what there is
        files[file["name"]] = file
        if version in self._begun and len(files) == len(self._job.servers):
            (step, state), all_files = self._begun[version], list(files.values())
            spare = self._spare()
            self._serving.writer.submit(
                lambda: Committed(version, self._store.commit(step, all_files, state, spare))
            )

    def settle(self, deadline: float) -> None:
        """Make the update that was begun, after an error, until a deadline of the monotonic clock.

        Raises:
            RuntimeError: the weights were left in the middle of it.
        """
        self._serving.recover()
        # What the other servers have begun, this one has; it may wait for their part of a norm.
        while self._serving.order.waits_for_norms and time.monotonic() < deadline:
            self._move_on()

    def save_now(self, deadline: float) -> Path | None:
        """Save the present version on all servers; return where, None if it takes too long.

        Args:
            deadline: of the monotonic clock.
        """
        serving = self._serving
        version = serving.progress.version
        if version in self.paths:
            return self.paths[version]
        for server in self._job.servers[1:]:
            serving.endpoint.send(server, m.SaveNow(version))
        serving.keep(hold=False, save=True)
        while version not in self.paths and time.monotonic() < deadline:
            self._move_on()
        return self.paths.get(version)

    def _move_on(self) -> None:
        """Move on only what servers owe one another."""
        event = None
        try:
            event = self._serving.endpoint.receive(TICK_S / 10)
        except Exception:  # a message that is none, say: the disk does not need it
            time.sleep(TICK_S / 10)
        match event:
            case Arrival(_, m.ShardSaved() as message):
                self.saved(message)
            case Arrival(peer, m.PartialNorm() as message):
                self._serving.take(peer, message)
        self._serving.see_written()

    def mark_best(self, version: int, step: int) -> None:
        """Keep this version's checkpoint as the best, once it is complete."""
        self._marked = version, step
        self._mark(version)

    def _mark(self, version: int) -> None:
        if self._marked is not None and version == self._marked[0] and version in self.paths:
            step, spare = self._marked[1], self._spare()
            self._serving.writer.submit(lambda: self._store.mark_best(step, spare))

    def _spare(self) -> list[int]:
        """Return the steps that no commit may prune: the best may be marked only after it."""
        held = [self._job.step_of(snapshot.units) for snapshot in self._serving.snapshots.held()]
        return [*held, *([] if self._marked is None else [self._marked[1]])]
