"""Completing checkpoints on rank 0: collect every server's file, commit, mark the best."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from psdp.checkpoint import CheckpointId, CheckpointStore, Snapshot, latest_of
from psdp.errors import NumericsError
from psdp.job import Job
from psdp.records.events import Record
from psdp.records.metrics import Best
from psdp.records.reasons import StoppedBy
from psdp.servers.ending import Stopped
from psdp.servers.noting import CURE
from psdp.servers.saving import Refused, Saved
from psdp.servers.serving import TICK_S, Serving
from psdp.servers.snapshots import checkpoint_of
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
        serving: of rank 0, whose writer this uses. Versions that are being evaluated are not
            pruned, since one of them may turn out to be the best.
        identity: what a checkpoint says of the job beside its progress (settings, tokenizer, ...).
        best: the best evaluation so far.
        record: of the events, whose hash goes into every checkpoint.

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
        record: Record | None = None,
    ) -> None:
        self.paths: dict[int, Path] = {}
        self._job = job
        self._serving = serving
        self._store = store
        self._identity = dict(identity)
        self._best = best
        self._record = record
        self._begun: dict[int, tuple[CheckpointId, dict[str, Any]]] = {}
        """Of versions that are being saved: in which checkpoint, and what it says of them."""
        self._files: defaultdict[int, dict[str, dict[str, Any]]] = defaultdict(dict)
        """By their names."""
        self._marked: CheckpointId | None = None
        self._refused: tuple[int, str] | None = None
        """A version that is not finite, nor are those after it, and what of it is not."""
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
            "clocks": {str(worker): clock for worker, clock in snapshot.clocks.items()},
            "best": self._best.record(),
        }
        if self._record is not None:
            state["events"] = self._record.seal_of(version).record()
        self._begun[version] = checkpoint_of(self._job, snapshot), state

    def written(self, result: Saved | Refused | Committed | None) -> None:
        """Take what the writer has finished.

        Raises:
            Stopped: this shard is not finite.
        """
        match result:
            case Refused(version, why):
                self._serving.snapshots.written(version)
                self.refuse(self._serving.endpoint.rank, version, why)
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

    def refuse(self, server: int, version: int, why: str) -> None:
        """Take a server's word that its shard is not finite, and is not saved.

        Raises:
            Stopped: always. What is NaN or Inf stays so.
        """
        what = f"{why} in version {version} of server rank {server}"
        self._refused = min(self._refused or (version, what), (version, what))
        error = NumericsError(f"the weights cannot be trained any further: {what}. {CURE}")
        raise Stopped(StoppedBy.NON_FINITE_STATE, error)

    def _collect(self, version: int, file: dict[str, Any]) -> None:
        """Take one server's file; commit with the last one."""
        files = self._files[version]
        if file["name"] in files:
            return  # a server that had written it was asked to save what there is
        files[file["name"]] = file
        if version in self._begun and len(files) == len(self._job.servers):
            (at, state), all_files = self._begun[version], list(files.values())
            spare = self._spare()
            self._serving.writer.submit(
                lambda: Committed(version, self._store.commit(at, all_files, state, spare))
            )

    def settle(self, deadline: float) -> None:
        """Make the update that was begun, after an error, until a deadline of the monotonic clock.

        Raises:
            RuntimeError: the weights were left in the middle of it.
        """
        self._serving.recover()
        # What the other servers have begun, this one has; it may wait for their part of a norm.
        with suppress(Stopped):  # which is told when it comes to saving
            while self._serving.order.waits_for_norms and time.monotonic() < deadline:
                self._move_on()

    def save_now(self, deadline: float) -> Path | None:
        """Save the present version on all servers; return where, None if it takes too long.

        Args:
            deadline: of the monotonic clock.

        Raises:
            NumericsError: it is not finite; the text says what is kept.
        """
        serving = self._serving
        version = serving.progress.version
        if version in self.paths:
            return self.paths[version]
        if self._refused is None:
            for server in self._job.servers[1:]:
                serving.endpoint.send(server, m.SaveNow(version))
            serving.keep(hold=False, save=True)
        while self._awaits(version) and time.monotonic() < deadline:
            with suppress(Stopped):
                self._move_on()
        if self._refused is not None:
            latest = latest_of(self._store.run)
            kept = "no checkpoint was saved before" if latest is None else f"{latest} is kept"
            raise NumericsError(f"{self._refused[1]}; {kept}")
        return self.paths.get(version)

    def _awaits(self, version: int) -> bool:
        """Say whether there is something to wait for, to have this version saved; if it is not
        finite, the last one that is."""
        if self._refused is None:
            return version not in self.paths
        return any(begun < self._refused[0] for begun in self._begun)

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
            case Arrival(peer, m.ShardRefused(version, why)):
                self.refuse(peer, version, why)
            case Arrival(peer, m.PartialNorm() as message):
                self._serving.take(peer, message)
        self._serving.see_written()

    def mark_best(self, snapshot: Snapshot) -> None:
        """Keep the checkpoint of this copy as the best, once it is complete."""
        self._marked = checkpoint_of(self._job, snapshot)
        self._mark(snapshot.version)

    def _mark(self, version: int) -> None:
        best = self._marked
        if best is not None and version == best.version and version in self.paths:
            spare = self._spare()
            self._serving.writer.submit(lambda: self._store.mark_best(best, spare))

    def _spare(self) -> list[CheckpointId]:
        """Return what no commit may prune: the best may be marked only after it."""
        held = [checkpoint_of(self._job, copy) for copy in self._serving.snapshots.held()]
        return [*held, *([] if self._marked is None else [self._marked])]
